"""Groups drawn from the policy as it stands, every step or every few, and held fixed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.models.packing import Packing
from ablate.objectives import Objective
from ablate.sampling.responses import Count
from ablate.training.behaviour import with_behaviour
from ablate.training.collate import GroupCollator
from ablate.training.groups import Group
from ablate.training.source import (
    Live,
    check_fit,
    mismatched,
    read_by,
    token_rows,
    with_reference,
)


@dataclass(frozen=True)
class Visit:
    """One presentation of a prompt: its place in the list, and how often it came before."""

    prompt: int
    number: int
    #: optimizer steps taken before its responses are drawn
    step: int = 0


class Rollout(Protocol):
    """Draws and rewards responses."""

    #: what this process has drawn so far
    count: Count

    def groups(self, policy: PreTrainedModel, visits: Sequence[Visit]) -> list[Group]:
        """A group of K rewarded responses per visit, drawn from `policy`; no log-probs yet."""
        ...

    def single(self, model: PreTrainedModel, visits: Sequence[Visit]) -> list[list[int]]:
        """One more response per visit, drawn from `model`, apart from the group's noise."""
        ...


class Memory(Protocol):
    """What rewards remember of earlier draws."""

    def state_dict(self) -> dict[str, float]:
        """Plain numbers that a saved training can hold."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Takes up what `state_dict` gave."""
        ...


@dataclass(frozen=True)
class FreshGroups:
    """Groups that are drawn while training: `count` prompts, drawn anew every n steps."""

    count: int
    refresh_every: int
    rollout: Rollout
    memory: Memory | None = None


class OnlineGroups:
    """Groups drawn from the current policy every `refresh_every` steps and held fixed.

    The responses of the coming steps are drawn at once; their log-probs enter each step's loss
    under the policy of that step. Objectives with importance ratios are given those under the
    policy that drew them, unless each draw serves one step, where the ratio is 1. Neither
    micro-batches nor the number of processes change what is drawn.

    Args:
        order: places of prompts, whole batches of `batch_size`.
        frozen: the reference; None takes the policy with its adapters switched off.
        packing: see `GroupCollator`.
    """

    def __init__(
        self,
        fresh: FreshGroups,
        order: Sequence[int],
        batch_size: int,
        objective: Objective,
        frozen: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
        packing: Packing | None = None,
    ) -> None:
        self.packing = packing
        self.fresh, self.order, self.batch_size = fresh, order, batch_size
        self.objective, self.frozen, self.tokenizer = objective, frozen, tokenizer
        #: what all processes have drawn so far
        self.drawn = Count()
        self._first = 0
        self._collator: GroupCollator | None = None

    def begin(self, step: int, trainer: Live) -> None:
        """Draws the groups of this step and of those until the next refresh, where one is due."""
        every = self.fresh.refresh_every
        if self._collator is not None and step % every:
            return
        self._first = step * self.batch_size
        last = min(self._first + every * self.batch_size, len(self.order))
        visits = [
            Visit(self.order[place], place // self.fresh.count, step)
            for place in range(self._first, last)
        ]
        with trainer.live() as policy:
            made = trainer.divided(lambda share: self._counted(policy, share), visits)
            groups = [group for group, _ in made]
            for _, (responses, tokens) in made:
                self.drawn.add(responses, tokens)
            places = list(range(len(groups)))
            with self._reference(policy) as reference:
                pairs = mismatched(
                    groups, places, self.batch_size, self.objective, reference, self.tokenizer
                )
        self._collator = self._collate(groups, places, pairs)

    def _collate(self, groups: list[Group], places: list[int], pairs: Any) -> GroupCollator:
        pad = int(self.tokenizer.pad_token_id)
        return GroupCollator(groups, places, pad, *pairs, packing=self.packing)

    @property
    def packed(self) -> bool:
        return self.packing is not None

    @property
    def filler(self) -> int:
        return len(self.order)

    def extent(self, position: int) -> tuple[int, int]:
        """See `GroupSource`."""
        assert self._collator is not None
        return self._collator.extent(position - self._first)

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The micro-batch of some positions of the current step."""
        assert self._collator is not None
        return self._collator([{"index": position - self._first} for position in positions])

    def state(self) -> dict[str, Any]:
        """The groups that later steps will see again, and where they begin."""
        if self._collator is None:
            return {}
        held, memory = self._collator, self.fresh.memory
        return {
            "memory": None if memory is None else memory.state_dict(),
            "first": self._first,
            "drawn": self.drawn.plain(),
            "groups": [asdict(group) for group in held.groups],
            "pairs": [held.partners, held.partner_ref_logps],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave: no step sees other responses for an interruption."""
        if not state:
            return
        if self.fresh.memory is not None:
            self.fresh.memory.load_state_dict(state["memory"])
        groups = [Group(**values) for values in state["groups"]]
        self._first, self.drawn = state["first"], Count(**state["drawn"])
        self._collator = self._collate(groups, list(range(len(groups))), state["pairs"])

    def _counted(
        self, policy: PreTrainedModel, visits: Sequence[Visit]
    ) -> list[tuple[Group, tuple[int, int]]]:
        """New groups; beside the first, the responses and tokens drawn for all of them."""
        count = self.fresh.rollout.count
        responses, tokens = count.responses, count.tokens
        groups = self._groups(policy, visits)
        spent = (count.responses - responses, count.tokens - tokens)
        return [(group, (0, 0) if place else spent) for place, group in enumerate(groups)]

    def _groups(self, policy: PreTrainedModel, visits: Sequence[Visit]) -> list[Group]:
        """New groups with log-probs under the reference and under the policy that drew them."""
        if not visits:
            return []
        groups = self.fresh.rollout.groups(policy, visits)
        check_fit(groups, self.objective, policy)
        groups = read_by(groups, self.objective)
        if self.objective.needs.previous:
            # the trainer's own head is in place: what its first step on them computes, to the bit
            drawn = token_rows(policy, self.tokenizer, groups, attached=True)
            groups = [
                replace(group, prev_logps=[sum(row) for row in rows])
                for group, rows in zip(groups, drawn, strict=True)
            ]
        if self.objective.needs.behaviour and self.fresh.refresh_every > 1:
            groups = with_behaviour(policy, self.tokenizer, groups, attached=True)
        with self._reference(policy) as reference:
            if self.objective.needs.reference_sample:
                extra = self.fresh.rollout.single(reference, visits)
                groups = [replace(g, sample_ids=ids) for g, ids in zip(groups, extra, strict=True)]
            if groups[0].ref_logps is None:
                known = token_rows(reference, self.tokenizer, groups)
                by_token = self.objective.needs.tokens
                groups = [
                    replace(
                        group,
                        ref_logps=[sum(row) for row in rows],
                        ref_token_logps=rows if by_token else None,
                    )
                    for group, rows in zip(groups, known, strict=True)
                ]
            return with_reference(reference, self.tokenizer, groups, self.objective)

    @contextmanager
    def _reference(self, policy: Any) -> Iterator[PreTrainedModel]:
        if self.frozen is not None:
            yield self.frozen
            return
        with policy.disable_adapter(), torch.no_grad():
            yield policy
