"""Where the groups of a training step come from: a list made before, or the policy as it stands."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.models.loading import check_lengths, context_length
from ablate.models.logps import response_logps, response_token_logps
from ablate.objectives import Objective
from ablate.training.groups import (
    Group,
    GroupCollator,
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

    def divided(self, work: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any]) -> list[Any]:
        """`work` on this process's share of the items; every process gets the whole result."""
        ...


class GroupSource(Protocol):
    """Positions 0, 1, … of the presentation, as micro-batches of tensors."""

    def begin(self, step: int, trainer: Live) -> None:
        """Called before the batches of a step (counted from 0) are asked for."""
        ...

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The micro-batch of some positions of the step, see `GroupCollator`."""
        ...


class FixedGroups:
    """Groups that were made before training."""

    def __init__(self, collator: GroupCollator) -> None:
        self.collator = collator

    def begin(self, step: int, trainer: Live) -> None:
        return None

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        return self.collator([{"index": position} for position in positions])


@dataclass(frozen=True)
class Visit:
    """One presentation of a prompt: its place in the list, and how often it came before."""

    prompt: int
    number: int


#: makes the groups of some visits with the policy as it stands
Roll = Callable[[PreTrainedModel, Sequence[Visit]], list[Group]]


@dataclass(frozen=True)
class FreshGroups:
    """Groups that are drawn while training: `count` prompts, drawn anew every n steps."""

    count: int
    refresh_every: int
    roll: Roll


class OnlineGroups:
    """Groups drawn from the current policy every `refresh_every` steps and held fixed.

    All responses of the coming steps are drawn at once; their log-probs enter the loss under the
    policy of each step, without importance ratios. Nothing depends on micro-batches or processes.

    Args:
        order: places of prompts, whole batches of `batch_size`.
        frozen: the reference; None takes the policy with its adapters switched off.
    """

    def __init__(
        self,
        fresh: FreshGroups,
        order: Sequence[int],
        batch_size: int,
        objective: Objective,
        frozen: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.fresh, self.order, self.batch_size = fresh, order, batch_size
        self.objective, self.frozen, self.tokenizer = objective, frozen, tokenizer
        self._first = 0
        self._collator: GroupCollator | None = None

    def begin(self, step: int, trainer: Live) -> None:
        if self._collator is not None and step % self.fresh.refresh_every:
            return
        self._first = step * self.batch_size
        last = self._first + self.fresh.refresh_every * self.batch_size
        visits = [
            Visit(self.order[place], place // self.fresh.count)
            for place in range(self._first, min(last, len(self.order)))
        ]
        with trainer.live() as policy:
            groups = trainer.divided(lambda share: self._groups(policy, share), visits)
            check_groups(groups)
            places = list(range(len(groups)))
            with self._reference(policy) as reference:
                partners = mismatched(
                    groups, places, self.batch_size, self.objective, reference, self.tokenizer
                )
        pad = int(self.tokenizer.pad_token_id)
        self._collator = GroupCollator(groups, places, pad, *partners)

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        assert self._collator is not None
        return self._collator([{"index": position - self._first} for position in positions])

    def _groups(self, policy: PreTrainedModel, visits: Sequence[Visit]) -> list[Group]:
        """New groups with log-probs under the reference and under the policy that drew them."""
        if not visits:
            return []
        groups = self.fresh.roll(policy, visits)
        check_groups(groups)
        needs = self.objective.needs
        if needs.previous:
            items = [(group.prompt_ids, group.response_ids) for group in groups]
            # the head of the trainer is in place: exactly what its first step on them computes
            drawn = response_token_logps(policy, self.tokenizer, items, BATCH_TOKENS, attached=True)
            groups = [
                replace(group, prev_logps=[sum(row) for row in rows])
                for group, rows in zip(groups, drawn, strict=True)
            ]
        with self._reference(policy) as reference:
            return with_reference(reference, self.tokenizer, groups, self.objective)

    def _reference(self, policy: Any) -> AbstractContextManager[PreTrainedModel]:
        if self.frozen is None:
            return _without_adapters(policy)
        return _as_it_is(self.frozen)


def with_reference(
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    objective: Objective,
) -> list[Group]:
    """The groups with the reference's log-probs where these are missing.

    Log-probs per token are made only for an objective that needs them.
    """
    wanted = objective.needs.tokens and objective.needs.reference
    by_token = wanted and groups[0].ref_token_logps is None
    if groups[0].ref_logps is not None and not by_token:
        return list(groups)
    items = [(group.prompt_ids, group.response_ids) for group in groups]
    values = response_token_logps(reference, tokenizer, items, BATCH_TOKENS)
    filled = []
    for group, rows in zip(groups, values, strict=True):
        sums = group.ref_logps if group.ref_logps is not None else [sum(row) for row in rows]
        tokens = rows if by_token else group.ref_token_logps
        filled.append(replace(group, ref_logps=sums, ref_token_logps=tokens))
    return filled


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
    items = []
    for position, partner in zip(order, partners, strict=True):
        pairs = mismatched_pairs(groups[position], groups[partner])
        items.append((groups[position].prompt_ids, [response for _, response in pairs]))
    check_lengths(
        (len(prompt) + len(ids) for prompt, rows in items for ids in rows),
        context_length(reference),
        "mismatched prompt and response",
    )
    return partners, response_logps(reference, tokenizer, items, BATCH_TOKENS)
