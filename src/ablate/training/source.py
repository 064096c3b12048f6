"""Where a trainer's groups come from: the interface, groups made before, and their reference."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.errors import DataError
from ablate.models.loading import check_lengths, context_length
from ablate.models.logps import response_logps, response_token_logps
from ablate.objectives import Objective
from ablate.training.collate import GroupCollator
from ablate.training.groups import (
    Group,
    check_groups,
    mismatched_pairs,
    mismatched_partners,
)

#: tokens per forward pass when log-probs are computed here
BATCH_TOKENS = 16384


class Live(Protocol):
    """What a source may ask of the trainer between two optimizer steps."""

    def live(self) -> AbstractContextManager[PreTrainedModel]:
        """The policy in evaluation mode and without gradients, unwrapped from its processes."""
        ...

    def divided(
        self, work: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any]
    ) -> list[Any]:
        """`work` on this process's share of the items; every process gets the whole result."""
        ...


class GroupSource(Protocol):
    """Positions 0, 1, … of the presentation, as micro-batches of tensors."""

    def begin(self, step: int, trainer: Live) -> None:
        """Called before the batches of a step (counted from 0) are asked for."""
        ...

    @property
    def packed(self) -> bool:
        """Whether the texts of a micro-batch share prompts and rows."""
        ...

    @property
    def filler(self) -> int:
        """A position beyond the last."""
        ...

    def extent(self, position: int) -> tuple[int, int]:
        """Rows that a position of the step makes, and the tokens of the longest."""
        ...

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The micro-batch of some positions of the step, see `GroupCollator`."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain data that a source needs to go on after an interruption."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        ...


class FixedGroups:
    """Groups that were made before training."""

    def __init__(self, collator: GroupCollator) -> None:
        self.collator = collator

    @property
    def packed(self) -> bool:
        return self.collator.packing is not None

    @property
    def filler(self) -> int:
        return len(self.collator.order)

    def begin(self, step: int, trainer: Live) -> None:
        return None

    def extent(self, position: int) -> tuple[int, int]:
        return self.collator.extent(position)

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        return self.collator([{"index": position} for position in positions])

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        return None


def with_reference(
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    objective: Objective,
) -> list[Group]:
    """The groups with log-probs of the reference per token, where the objective needs them."""
    needs = objective.needs
    if not (needs.tokens and needs.reference) or groups[0].ref_token_logps is not None:
        return list(groups)
    values = token_rows(reference, tokenizer, groups)
    return [
        replace(group, ref_token_logps=rows) for group, rows in zip(groups, values, strict=True)
    ]


def token_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    *,
    attached: bool = False,
) -> list[list[list[float]]]:
    """log π of every token of every response, by group; `attached` as in `response_token_logps`."""
    items = [(prompt, [ids]) for group in groups for prompt, ids in group.rows()]
    values = iter(response_token_logps(model, tokenizer, items, BATCH_TOKENS, attached=attached))
    return [[next(values)[0] for _ in group.response_ids] for group in groups]


def mismatched(
    groups: Sequence[Group],
    order: Sequence[int],
    batch_size: int,
    objective: Objective,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[list[int] | None, list[list[float]] | None]:
    """Partners of each position and the reference's log-probs of the mismatched pairs.

    None twice where the objective does not use such pairs or there is only one group.

    Raises:
        ModelError: a mismatched pair longer than the model's context.
    """
    if not objective.needs.mismatched or len(groups) < 2:
        return None, None
    partners = mismatched_partners(order, batch_size)
    pairs = [
        mismatched_pairs(groups[position], groups[partner])
        for position, partner in zip(order, partners, strict=True)
    ]
    check_lengths(
        (len(prompt) + len(ids) for rows in pairs for prompt, ids in rows),
        context_length(reference),
        "mismatched prompt and response",
    )
    items = [(prompt, [ids]) for rows in pairs for prompt, ids in rows]
    values = iter(response_logps(reference, tokenizer, items, BATCH_TOKENS))
    return partners, [[next(values)[0] for _ in rows] for rows in pairs]


def read_by(groups: Sequence[Group], objective: Objective) -> list[Group]:
    """No forward pass for a gold response, rationale or sample that the loss does not read."""
    needs = objective.needs
    unread: dict[str, Any] = {}
    if not needs.gold:
        unread["gold_ids"] = None
    if not needs.rationale:
        unread |= {"rationale_ids": None, "rationale_prompt_ids": None}
    if not needs.reference_sample:
        unread["sample_ids"] = None
    if all(getattr(groups[0], name) is None for name in unread):
        return list(groups)
    return [replace(group, **unread) for group in groups]


def check_fit(groups: Sequence[Group], objective: Objective, model: PreTrainedModel) -> None:
    """Refuse groups that do not fit together, the objective or the model's context.

    Raises:
        DataError: names the first group and what is wrong with it.
        ModelError: a sequence longer than the context.
    """
    check_groups(groups)
    if groups[0].response_prompt_ids is not None and not objective.needs.joint:
        raise DataError(
            f"objective={objective.name} compares responses to one prompt, but these groups hold "
            "responses to several (response_prompt_ids); dove is made for them"
        )
    rows = (row for group in groups for row in (*group.rows(), *group.side_texts().values()))
    lengths = (len(prompt) + len(ids) for prompt, ids in rows)
    check_lengths(lengths, context_length(model), "prompt and response")
