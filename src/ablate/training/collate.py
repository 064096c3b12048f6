"""Collation of groups into the tensors of a micro-batch, and the objective's view of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ablate.groups import PromptGroup
from ablate.models.packing import Packing, Text, text_rows, trees_of
from ablate.training.groups import Group, mismatched_pairs

#: numbers per response by their names in `PromptGroup`: (field of a group, where absent, type)
_GRIDS: dict[str, tuple[str, float, torch.dtype]] = {
    "ref_logps": ("ref_logps", 0.0, torch.float32),
    "rewards": ("rewards", 0.0, torch.float32),
    "ranks": ("ranks", 0.0, torch.float32),
    "prev_logps": ("prev_logps", 0.0, torch.float32),
    "pairing_key": ("pool_index", torch.iinfo(torch.int64).max, torch.long),
}
#: lists per response by their names in `PromptGroup`: the field of a group
_DEEP = {
    "token_ref_logps": "ref_token_logps",
    "old_token_logps": "old_token_logps",
    "win_probs": "win_probs",
    "extra_rewards": "extra_rewards",
    "token_weights": "token_weights",
    "token_kl_weights": "token_kl_weights",
}
#: texts beside the responses whose log-probs the model gives
SIDE_TEXTS = ("gold", "rationale", "sample")


class GroupCollator:
    """Turns positions of the presentation order into one micro-batch of tensors.

    Legend: B prompts, K responses at most, R present responses, S texts beside them.

    The batch holds the rows of all texts (`text_rows`), `tokens` int[R + S] (of prompt and response
    of each text), `cell` int[R] (row · K + column of each response) and, by their names in
    `PromptGroup`, what is known of the responses. The last S texts stand beside the responses (a
    gold response, a rationale): `gold_row` int[B] says which text is a prompt's gold response.
    With `packing`, texts share prompts and rows.

    Positions beyond the order are fillers: they keep processes in step on an uneven last batch.
    Their tokens are those of the order's last group, and no response of theirs is present
    (`mask` is False throughout the row), so `prompt_group` leaves them out.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        order: Sequence[int],
        pad_id: int,
        partners: Sequence[int] | None = None,
        partner_ref_logps: Sequence[list[float]] | None = None,
        *,
        packing: Packing | None = None,
    ) -> None:
        self.groups = groups
        self.order = order
        self.pad_id = pad_id
        self.partners = partners
        self.partner_ref_logps = partner_ref_logps
        self.packing = packing

    def extent(self, position: int) -> tuple[int, int]:
        """How many rows a position's group makes at most, and the tokens of the longest."""
        group = self.groups[self.order[min(position, len(self.order) - 1)]]
        texts = [*group.rows(), *group.side_texts().values()]
        trees = trees_of(texts, [0] * len(texts), self.packing)
        return len(trees), max(tree.length for tree in trees)

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        asked = [int(example["index"]) for example in examples]
        positions = [min(position, len(self.order) - 1) for position in asked]
        chosen = [self.groups[self.order[position]] for position in positions]
        batch = self._fields(chosen)
        batch["mask"] &= torch.tensor([position < len(self.order) for position in asked])[:, None]
        if self.partners is not None and self.partner_ref_logps is not None:
            pairs: list[Text] = []
            owners: list[int] = []
            reference = []
            for owner, (position, group) in enumerate(zip(positions, chosen, strict=True)):
                pairs += mismatched_pairs(group, self.groups[self.partners[position]])
                owners += [owner] * len(group.response_ids)
                reference.append(self.partner_ref_logps[position])
            rows = text_rows(pairs, owners, self.pad_id, self.packing)
            batch |= {f"kl_{name}": value for name, value in rows.items()}
            batch["kl_ref_logps"] = _grid(reference, 0.0, torch.float32)
        return batch

    def _fields(self, chosen: Sequence[Group]) -> dict[str, Tensor]:
        counts = [len(group.response_ids) for group in chosen]
        width = max(counts)
        texts = [row for group in chosen for row in group.rows()]
        owners = [owner for owner, count in enumerate(counts) for _ in range(count)]
        side = {}
        for name in chosen[0].side_texts():
            side[f"{name}_row"] = torch.arange(len(texts), len(texts) + len(chosen))
            texts += [group.side_texts()[name] for group in chosen]
            owners += range(len(chosen))
        batch = {
            **text_rows(texts, owners, self.pad_id, self.packing),
            "tokens": torch.tensor([len(prompt) + len(ids) for prompt, ids in texts]),
            "cell": torch.tensor(
                [row * width + column for row, n in enumerate(counts) for column in range(n)]
            ),
            "mask": torch.arange(width)[None, :] < torch.tensor(counts)[:, None],
            "lengths": _grid(
                [[len(ids) for ids in group.response_ids] for group in chosen], 0, torch.long
            ),
            **side,
        }
        for name, (field, fill, dtype) in _GRIDS.items():
            if getattr(chosen[0], field) is not None:
                batch[name] = _grid([getattr(group, field) for group in chosen], fill, dtype)
        for name, field in _DEEP.items():
            if getattr(chosen[0], field) is not None:
                batch[name] = _deep_grid([getattr(group, field) for group in chosen], width)
        if chosen[0].gold_ids is not None:
            batch["gold_lengths"] = torch.tensor([len(g.gold_ids or ()) for g in chosen])
        return batch


def _grid(rows: Sequence[Any], fill: float, dtype: torch.dtype) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=dtype)


def _deep_grid(rows: Sequence[Sequence[Sequence[float]]], width: int) -> Tensor:
    """float32[B, K, longest list], 0 where there is nothing."""
    longest = max(len(values) for row in rows for values in row)
    grid = torch.zeros(len(rows), width, longest)
    for place, row in enumerate(rows):
        for column, values in enumerate(row):
            grid[place, column, : len(values)] = torch.tensor(values)
    return grid


def real_prompts(batch: dict[str, Tensor]) -> Tensor:
    """bool[B]: the prompts of a micro-batch that are no fillers."""
    return batch["mask"].any(dim=1)


def real_sequences(batch: dict[str, Tensor]) -> Tensor:
    """bool[R + S]: the texts that belong to prompts that are no fillers."""
    sides = [real_prompts(batch) for name in SIDE_TEXTS if f"{name}_row" in batch]
    return torch.cat([batch["mask"].flatten()[batch["cell"]], *sides])


def prompt_group(batch: dict[str, Tensor], logps: Tensor, **computed: Tensor) -> PromptGroup:
    """The objective's view of a micro-batch; fillers are not part of it.

    Args:
        logps: float32[B, K], log π_θ of each response (0 where absent).
        computed: further fields of the group that come from the model.
    """
    names = ("lengths", "mask", "gold_lengths", *_GRIDS, *_DEEP)
    known = {name: batch[name] for name in names if name in batch}
    group = PromptGroup(
        policy_logps=logps,
        kl_logps=batch.get("kl_logps"),
        kl_ref_logps=batch.get("kl_ref_logps"),
        kl_mask=batch["mask"] if "kl_logps" in batch else None,
        **known,
        **computed,
    )
    real = real_prompts(batch)
    return group if bool(real.all()) else group.rows(real)
