"""Configuration of reward sources: one node per kind, nested where a source is made of others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from ablate.config.base import Node
from ablate.config.objective import ObjectiveConfig

Normalize = Literal["within_prompt_sd", "none", "centre", "z_score", "clip", "rank"]
#: which prompts the labels of a learnt source belong to
LabelPrompts = Literal["id", "ood", "mix"]


class LabelTraining(Node):
    """What every learnt source says of its training on labels."""

    num_labels: PositiveInt | None
    prompts: LabelPrompts
    lr: PositiveFloat
    batch_size: PositiveInt
    epochs: PositiveFloat


class RewardTraining(LabelTraining):
    """How a reward model is trained, on labels of prompts the policy never trains on."""

    loss: Literal["bradley_terry", "regression"]
    init: Literal["sft", "base"]


class ImplicitTraining(LabelTraining):
    """How the policy of an implicit reward is trained, on the same labels as a reward model."""

    objective: ObjectiveConfig


class PreferenceTraining(LabelTraining):
    """How a general preference model is trained; `dim` is that of its embeddings (even)."""

    loss: Literal["preference"]
    dim: PositiveInt = Field(multiple_of=2)
    tau: PositiveFloat
    init: Literal["sft", "base"]


Training = RewardTraining | ImplicitTraining | PreferenceTraining


class _Source(Node):
    name: str
    normalize: Normalize
    #: limit of `normalize: clip`, in within-prompt standard deviations
    clip_at: PositiveFloat


class LabelsReward(_Source):
    """Only the order of the responses by the labels."""

    kind: Literal["labels"]


class GoldReward(_Source):
    """The judge's own scores, or those that came with the data."""

    kind: Literal["gold"]
    scores_from: Literal["data", "judge"]


class ExplicitReward(_Source):
    """A scalar reward model: trained here, or a sequence classifier from `path`."""

    kind: Literal["explicit"]
    path: str | None
    #: which output of a classifier with several is the score
    output: Annotated[int, Field(ge=0)] | None
    training: RewardTraining


class ImplicitReward(_Source):
    """beta·log(pi/pi_ref) of a frozen preference-trained policy."""

    kind: Literal["implicit"]
    training: ImplicitTraining


class VerifierReward(_Source):
    """Right or wrong: by the judge of a 0/1 world, or by a pattern against a reference answer."""

    kind: Literal["verifier"]
    pattern: str | None

    _pattern = field_validator("pattern")(lambda value: value and _one_group(value))


class LengthReward(_Source):
    """The response's tokens, or minus their distance from `target`."""

    kind: Literal["length"]
    target: PositiveFloat | None


class FormatReward(_Source):
    """1 where the response matches `pattern`, else 0."""

    kind: Literal["format"]
    pattern: str

    _pattern = field_validator("pattern")(lambda value: _regular(value) and value)


class EnsembleReward(_Source):
    """Several scalar sources, or several seeds of them, combined into one."""

    kind: Literal["ensemble"]
    combine: Literal["mean", "min", "mean_minus_sd"]
    #: lambda of `combine: mean_minus_sd`
    sd_weight: NonNegativeFloat
    #: how often each learnt member is trained
    seeds: PositiveInt
    members: dict[str, RewardConfig]


class PairwiseReward(_Source):
    """P[K, K] from another source: who beats whom, or Bradley-Terry on its scores."""

    kind: Literal["pairwise"]
    rule: Literal["sign", "sigmoid"]
    tau: PositiveFloat
    source: RewardConfig


class PreferenceReward(_Source):
    """P[K, K] from a learnt general preference model, which may hold cycles."""

    kind: Literal["gpm"]
    training: PreferenceTraining


class Term(Node):
    """A source and its weight."""

    weight: float
    source: RewardConfig


class CompositeReward(_Source):
    """A weighted sum of sources."""

    kind: Literal["composite"]
    terms: dict[str, Term]


class VectorReward(_Source):
    """Several rewards side by side: the first of `order` is the reward, the others are further."""

    kind: Literal["vector"]
    order: list[str] = Field(min_length=2)
    terms: dict[str, Term]

    @model_validator(mode="after")
    def _named_once(self) -> VectorReward:
        if sorted(self.order) != sorted(self.terms):
            raise ValueError(f"order={self.order} must name each of {sorted(self.terms)} once")
        return self


RewardConfig = Annotated[
    LabelsReward
    | GoldReward
    | ExplicitReward
    | ImplicitReward
    | VerifierReward
    | LengthReward
    | FormatReward
    | EnsembleReward
    | PairwiseReward
    | PreferenceReward
    | CompositeReward
    | VectorReward,
    Field(discriminator="kind"),
]
for _node in (EnsembleReward, PairwiseReward, Term, CompositeReward, VectorReward):
    _node.model_rebuild()

#: sources that are trained here
LEARNT = (ExplicitReward, ImplicitReward, PreferenceReward)


def _regular(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


def _one_group(pattern: str) -> str:
    if _regular(pattern).groups != 1:
        raise ValueError(
            f"{pattern!r} must have one group in brackets, which holds the answer, as in "
            r"'answer (\d+)'"
        )
    return pattern


def training_of(reward: RewardConfig) -> Training | None:
    """How a source is trained, or None where it is not."""
    if isinstance(reward, ExplicitReward) and reward.path is not None:
        return None
    return reward.training if isinstance(reward, LEARNT) else None


@dataclass(frozen=True)
class Part:
    """A source within another: `seed` numbers the trainings of one member, from 0."""

    source: RewardConfig
    seed: int
    weight: float = 1.0


def parts(reward: RewardConfig, seed: int = 0) -> dict[str, Part]:
    """The sources that a source is made of, by name; empty for one that stands alone.

    An ensemble's members that are learnt, wherever in them, come once for each seed: `a-0`, `a-1`.
    """
    if isinstance(reward, PairwiseReward):
        return {"source": Part(reward.source, seed)}
    if isinstance(reward, CompositeReward):
        return {name: Part(term.source, seed, term.weight) for name, term in reward.terms.items()}
    if isinstance(reward, VectorReward):
        return {
            name: Part(reward.terms[name].source, seed, reward.terms[name].weight)
            for name in reward.order
        }
    found = {}
    if isinstance(reward, EnsembleReward):
        for name, member in reward.members.items():
            learnt = any(training_of(source) is not None for source in walk(member))
            if not learnt or reward.seeds == 1:
                found[name] = Part(member, seed)
                continue
            for number in range(reward.seeds):
                found[f"{name}-{number}"] = Part(member, seed * reward.seeds + number)
    return found


def walk(reward: RewardConfig) -> Iterator[RewardConfig]:
    """A source and all that it is made of."""
    yield reward
    for part in parts(reward).values():
        yield from walk(part.source)


@dataclass(frozen=True)
class Gives:
    """What a source gives beside the order of the responses."""

    scores: bool
    win_probs: bool
    #: further rewards beside the first
    extra_rewards: int


def gives(reward: RewardConfig) -> Gives:
    """What an objective will find in its groups."""
    if isinstance(reward, LabelsReward):
        return Gives(scores=False, win_probs=False, extra_rewards=0)
    if isinstance(reward, PairwiseReward | PreferenceReward):
        return Gives(scores=True, win_probs=True, extra_rewards=0)
    if isinstance(reward, VectorReward):
        first = gives(reward.terms[reward.order[0]].source)
        return Gives(first.scores, win_probs=False, extra_rewards=len(reward.order) - 1)
    if isinstance(reward, EnsembleReward):
        return Gives(scores=True, win_probs=False, extra_rewards=len(parts(reward)))
    return Gives(scores=True, win_probs=False, extra_rewards=0)


def judge_share(reward: RewardConfig, given: bool) -> Literal["none", "part", "all"]:
    """How much of the training reward is the judge itself.

    Args:
        given: responses and scores came with the dataset, whose judge is another.
    """
    if isinstance(reward, GoldReward):
        return "all" if reward.scores_from == "judge" or not given else "none"
    if isinstance(reward, VerifierReward):
        return "all" if reward.pattern is None else "none"
    if isinstance(reward, LabelsReward):
        return "none"
    shares = {judge_share(part.source, given) for part in parts(reward).values()}
    if not shares or shares == {"none"}:
        return "none"
    return "all" if shares == {"all"} else "part"
