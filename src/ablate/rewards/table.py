"""What a training reward says of answers, and the object that says it. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablate.datasets.chat import Conversation, Message
from ablate.errors import DataError
from ablate.rewards.normalize import How, Normalizer, fit_normalizer
from ablate.rewards.shaping import Shaper

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """A response to a prompt, as text and as the policy's token ids.

    `messages` are there where the prompt is more than one message of a user; `prompt` is then
    their plain rendering.
    """

    prompt_id: str
    prompt: str
    prompt_ids: list[int]
    response: str
    response_ids: list[int]
    #: its place among the prompt's responses in the stored pool; None for an answer that is new
    index: int | None = None
    messages: list[Message] | None = None
    #: what it is compared with, by judges that compare two; None: the prompt's other answers
    opponent: str | None = None

    @property
    def conversation(self) -> Conversation:
        """The prompt as a tokenizer takes it."""
        return self.prompt if self.messages is None else self.messages


@dataclass(frozen=True)
class RewardTable:
    """What training may see of R answers, in their order. E further rewards.

    Only `rank` is always there: a source of order alone has no `reward`.
    """

    #: [R], the prompt of each answer
    prompts: NDArray[Any]
    #: float[R], higher is better, equal is a tie; differences mean nothing
    rank: Floats
    #: float[R]: scores whose differences mean something, normalised
    reward: Floats | None = None
    #: float[R, E]: rewards beside the first
    extra_rewards: Floats | None = None
    #: per answer, P(it beats answer j) for the answers j of its prompt in their order, itself
    #: included (½)
    win_probs: list[list[float]] | None = None

    def columns(self) -> pd.DataFrame:
        """A column for each field that is known; lists where an answer has several numbers."""
        columns: dict[str, Any] = {"rank": self.rank}
        if self.reward is not None:
            columns["reward"] = self.reward
        if self.extra_rewards is not None:
            columns["extra_rewards"] = [row.tolist() for row in self.extra_rewards]
        if self.win_probs is not None:
            columns["win_probs"] = self.win_probs
        return pd.DataFrame(columns)


#: reads a part of a source: fits it, scores with it, or scores answers that stand alone
Read = Callable[["TrainingReward"], RewardTable]


class Source(Protocol):
    """A reward source; one that is made of others reads them through `read`."""

    #: whether its further rewards are versions of the reward, to be divided by the same number
    one_scale: bool

    @property
    def parts(self) -> dict[str, TrainingReward]:
        """The sources it is made of, by name."""
        ...

    def table(self, answers: Sequence[Answer], read: Read) -> RewardTable:
        """Raw rewards. Not called with no answers."""
        ...


class TrainingReward:
    """A reward source with its normaliser: scores any answers, offline and online alike.

    The normaliser (and those of the source's parts) is fitted once, on the offline pool; `state`
    is what to store of it and `restore` takes it back, so that rewards of new answers are divided
    by the same numbers.
    """

    def __init__(
        self, source: Source, how: How, clip_at: float, shaper: Shaper | None = None
    ) -> None:
        self.source, self.how, self.clip_at = source, how, clip_at
        #: changes raw rewards before they are normalised, by the lengths of the answers
        self.shaper = shaper
        self.normalizer: Normalizer | None = None
        self._mean = 0.0
        #: of the answers on which it was fitted: the raw rewards, or the ranks where there are none
        self.raw: Floats | None = None
        #: the same after shaping
        self.shaped: Floats | None = None

    def fit(self, answers: Sequence[Answer]) -> RewardTable:
        """Fits the normalisers on these answers and returns their rewards."""
        table = self.source.table(answers, lambda part: part.fit(answers))
        self.raw = table.rank if table.reward is None else table.reward
        if self.shaper is not None:
            # the pool is no part of the training that a shaper follows
            before = self.shaper.state_dict()
            table = self._shaped(table, answers, step=0)
            self.shaper.load_state_dict(before)
            self.shaped = table.reward
        if table.reward is None:
            self.normalizer = Normalizer("none", self.clip_at, 0.0, 1.0)
        else:
            self.normalizer = fit_normalizer(table.reward, table.prompts, self.how, self.clip_at)
        table = self._normalized(table)
        self._mean = 0.0 if table.reward is None else float(table.reward.mean())
        return table

    def score(self, answers: Sequence[Answer], step: int = 0) -> RewardTable:
        """The rewards of any answers; those to one prompt are compared with each other.

        With a shaper the answers must be all of an optimizer step, on every process alike, and
        `step` the steps taken before: see `Shaper`.

        Raises:
            DataError: a source that knows the stored pool only; a reward that cannot be shaped.
        """
        table = self.source.table(answers, lambda part: part.score(answers))
        return self._normalized(self._shaped(table, answers, step))

    def _shaped(self, table: RewardTable, answers: Sequence[Answer], step: int) -> RewardTable:
        if self.shaper is None or table.reward is None:
            return table
        names = [answer.prompt_id for answer in answers]
        tokens = [len(answer.response_ids) for answer in answers]
        reward = self.shaper.shape(names, table.reward, tokens, step)
        return replace(table, reward=reward, rank=reward)

    def alone(self, answers: Sequence[Answer]) -> RewardTable:
        """The rewards of answers that are not compared with others to the same prompt.

        They are not shaped: that is a matter of a batch.
        """
        table = self.source.table(answers, lambda part: part.alone(answers))
        if table.reward is None:
            return table
        return replace(table, reward=self._fitted().alone(table.reward))

    def _normalized(self, table: RewardTable) -> RewardTable:
        if table.reward is None:
            return table
        normalizer = self._fitted()
        extra = table.extra_rewards
        if extra is not None and self.source.one_scale:
            extra = extra / normalizer.scale
        reward = normalizer.apply(table.reward, table.prompts)
        return replace(table, reward=reward, extra_rewards=extra)

    def mean(self) -> float:
        """Mean reward of the answers on which it was fitted: the zero point of an ensemble."""
        return self._mean

    def _fitted(self) -> Normalizer:
        if self.normalizer is None:
            raise DataError("the training reward was not fitted to the pool")
        return self.normalizer

    def state(self) -> dict[str, Any]:
        """The fitted numbers as plain data: shift, scale, mean, and those of the parts."""
        normalizer = self._fitted()
        state: dict[str, Any] = {
            "shift": normalizer.shift,
            "scale": normalizer.scale,
            "mean": self._mean,
        }
        if self.source.parts:
            state["parts"] = {name: part.state() for name, part in self.source.parts.items()}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned."""
        self.normalizer = Normalizer(self.how, self.clip_at, state["shift"], state["scale"])
        self._mean = state["mean"]
        for name, part in self.source.parts.items():
            part.restore(state["parts"][name])
