"""Groups of ragged responses, their order of presentation, and their collation into tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.errors import DataError
from ablate.groups import PromptGroup
from ablate.models.logps import pad_rows


@dataclass(frozen=True)
class Group:
    """One prompt with the K responses that enter the loss and all that training may see of them.

    Lists other than `prompt_ids` have one entry per response; None where it is not known.
    """

    prompt_id: str
    prompt_ids: list[int]
    #: token ids, the end token included
    response_ids: list[list[int]]
    #: log π_ref(y|x), summed over the response's tokens
    ref_logps: list[float] | None = None
    #: scores whose differences mean something
    rewards: list[float] | None = None
    #: order only (higher is better)
    ranks: list[float] | None = None
    #: index of each response in the sampled pool; settles choices that would else be random
    pool_index: list[int] | None = None
    #: log π_ref per token, for objectives that need it
    ref_token_logps: list[list[float]] | None = None


def check_groups(groups: Sequence[Group]) -> None:
    """Raise a DataError that names the first group whose lists do not fit together."""
    if not groups:
        raise DataError("there are no groups to train on")
    for group in groups:
        count = len(group.response_ids)
        if not count or not group.prompt_ids or not all(group.response_ids):
            raise DataError(f"prompt {group.prompt_id!r} has an empty prompt or response")
        for name in ("ref_logps", "rewards", "ranks", "pool_index", "ref_token_logps"):
            values: Any = getattr(group, name)
            if values is not None and len(values) != count:
                raise DataError(
                    f"prompt {group.prompt_id!r} has {count} responses but {len(values)} {name}"
                )
            if (values is None) != (getattr(groups[0], name) is None):
                raise DataError(
                    f"{name} are known for some prompts only (prompt {group.prompt_id!r} differs "
                    f"from {groups[0].prompt_id!r})"
                )


def presentation_order(count: int, total: int, seed: int) -> list[int]:
    """`total` positions into `count` examples: one seeded shuffle after another."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    order: list[int] = []
    while len(order) < total:
        order.extend(generator.permutation(count).tolist())
    return order[:total]


def mismatched_partners(order: Sequence[int], batch_size: int) -> list[int]:
    """For each position, the group whose responses stand for another prompt's.

    The next position within the same global batch (the first follows the last), so the partner
    does not depend on micro-batches or processes; a batch of one takes the position before it.
    """
    partners: list[int] = []
    for start in range(0, len(order), batch_size):
        window = list(order[start : start + batch_size])
        if len(window) == 1 and start:
            partners.append(order[start - 1])
        else:
            partners.extend(window[1:] + window[:1])
    return partners


def mismatched_pairs(group: Group, partner: Group) -> list[tuple[list[int], list[int]]]:
    """(prompt, response of another prompt) per response of `group`."""
    responses = partner.response_ids
    return [
        (group.prompt_ids, responses[k % len(responses)]) for k in range(len(group.response_ids))
    ]


class GroupCollator:
    """Turns positions of the presentation order into one micro-batch of tensors.

    Legend: B prompts, K responses at most, R present responses, L tokens at most.

    The batch holds `input_ids` int[R, L], `completion_mask` bool[R, L], `cell` int[R] (row · K +
    column of each response) and, by their names in `PromptGroup`, what is known of the responses.

    Positions beyond the order are fillers: they keep processes in step on an uneven last batch.
    Their tokens are those of the order's last group, and no response of theirs is present
    (`mask` is False throughout the row): `real_rows` leaves them out of everything that counts.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        order: Sequence[int],
        pad_id: int,
        partners: Sequence[int] | None = None,
        partner_ref_logps: Sequence[list[float]] | None = None,
    ) -> None:
        self.groups = groups
        self.order = order
        self.pad_id = pad_id
        self.partners = partners
        self.partner_ref_logps = partner_ref_logps

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        asked = [int(example["index"]) for example in examples]
        positions = [min(position, len(self.order) - 1) for position in asked]
        chosen = [self.groups[self.order[position]] for position in positions]
        batch = self._fields(chosen)
        batch["mask"] &= torch.tensor([position < len(self.order) for position in asked])[:, None]
        if self.partners is not None and self.partner_ref_logps is not None:
            pairs = []
            reference = []
            for position, group in zip(positions, chosen, strict=True):
                pairs += mismatched_pairs(group, self.groups[self.partners[position]])
                reference.append(self.partner_ref_logps[position])
            batch["kl_input_ids"], batch["kl_completion_mask"] = pad_rows(pairs, self.pad_id)
            batch["kl_ref_logps"] = _grid(reference, 0.0, torch.float32)
        return batch

    def _fields(self, chosen: Sequence[Group]) -> dict[str, Tensor]:
        counts = [len(group.response_ids) for group in chosen]
        width = max(counts)
        rows = [(group.prompt_ids, ids) for group in chosen for ids in group.response_ids]
        input_ids, completion = pad_rows(rows, self.pad_id)
        batch = {
            "input_ids": input_ids,
            "completion_mask": completion,
            "cell": torch.tensor(
                [row * width + column for row, n in enumerate(counts) for column in range(n)]
            ),
            "mask": torch.arange(width)[None, :] < torch.tensor(counts)[:, None],
            "lengths": _grid(
                [[len(ids) for ids in group.response_ids] for group in chosen], 0, torch.long
            ),
        }
        first = chosen[0]
        if first.ref_logps is not None:
            batch["ref_logps"] = _grid([g.ref_logps for g in chosen], 0.0, torch.float32)
        if first.rewards is not None:
            batch["rewards"] = _grid([g.rewards for g in chosen], 0.0, torch.float32)
        if first.ranks is not None:
            batch["ranks"] = _grid([g.ranks for g in chosen], 0.0, torch.float32)
        if first.pool_index is not None:
            largest = torch.iinfo(torch.int64).max
            batch["pairing_key"] = _grid([g.pool_index for g in chosen], largest, torch.long)
        if first.ref_token_logps is not None:
            batch["token_ref_logps"] = self._token_grid(chosen, width)
        return batch

    @staticmethod
    def _token_grid(chosen: Sequence[Group], width: int) -> Tensor:
        longest = max(len(ids) for group in chosen for ids in group.response_ids)
        grid = torch.zeros(len(chosen), width, longest)
        for row, group in enumerate(chosen):
            for column, values in enumerate(group.ref_token_logps or []):
                grid[row, column, : len(values)] = torch.tensor(values)
        return grid


def _grid(rows: Sequence[Any], fill: float, dtype: torch.dtype) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=dtype)


def real_rows(batch: dict[str, Tensor]) -> Tensor:
    """bool[B]: the prompts of a micro-batch that are no fillers."""
    return batch["mask"].any(dim=1)


def prompt_group(batch: dict[str, Tensor], logps: Tensor, **computed: Tensor) -> PromptGroup:
    """The objective's view of a micro-batch; fillers are not part of it.

    Args:
        logps: float32[B, K], log π_θ of each response (0 where absent).
        computed: further fields of the group that come from the model.
    """
    names = ("ref_logps", "rewards", "ranks", "lengths", "mask", "pairing_key")
    known = {name: batch[name] for name in names if name in batch}
    group = PromptGroup(
        policy_logps=logps,
        token_ref_logps=batch.get("token_ref_logps"),
        kl_logps=batch.get("kl_logps"),
        kl_ref_logps=batch.get("kl_ref_logps"),
        kl_mask=batch["mask"] if "kl_logps" in batch else None,
        **known,
        **computed,
    )
    real = real_rows(batch)
    return group if bool(real.all()) else group.rows(real)
