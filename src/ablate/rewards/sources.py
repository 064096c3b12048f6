"""Reward sources: single ones around a scorer, and those made of others. NumPy only."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ablate.errors import DataError
from ablate.rewards.normalize import rows_by_prompt
from ablate.rewards.table import Answer, Floats, Read, RewardTable, TrainingReward


class Scorer(Protocol):
    """Anything that gives each answer a number; higher is better."""

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """float[R], one score per answer."""
        ...


class Preference(Protocol):
    """Anything that says how probably one answer beats another to the same prompt."""

    def compare(self, answers: Sequence[Answer]) -> list[list[float]]:
        """For each answer, P(it beats answer j) for the answers j of its prompt, in their order."""
        ...


class ScalarSource:
    """The numbers of a scorer; `order_only` where their differences mean nothing."""

    one_scale = False

    def __init__(self, scorer: Scorer, order_only: bool = False) -> None:
        self.parts: dict[str, TrainingReward] = {}
        self.scorer, self.order_only = scorer, order_only

    def table(self, answers: Sequence[Answer], read: Read) -> RewardTable:
        values = _checked(self.scorer.score(answers), answers)
        return RewardTable(_prompts(answers), values, None if self.order_only else values)


class KnownScores:
    """Scores that were stored with the pool, and somebody who scores answers that are new."""

    def __init__(self, known: Mapping[tuple[str, int], float], others: Scorer | None) -> None:
        self.known, self.others = known, others

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """float[R]. Raises `DataError` for a new answer that nobody can score."""
        found = [
            None if answer.index is None else self.known.get((answer.prompt_id, answer.index))
            for answer in answers
        ]
        values = np.array([np.nan if value is None else value for value in found], dtype=np.float64)
        new = [place for place, value in enumerate(found) if value is None]
        if not new:
            return values
        if self.others is None:
            raise DataError(
                f"the scores that came with the dataset say nothing of the new answer "
                f"{answers[new[0]].response!r}; use reward=explicit, or reward=gold "
                "reward.scores_from=judge"
            )
        values[new] = self.others.score([answers[place] for place in new])
        return values


class LengthScorer:
    """Tokens of the response, the end token included; with a target, minus the distance from it."""

    def __init__(self, target: float | None) -> None:
        self.target = target

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        lengths = np.array([len(answer.response_ids) for answer in answers], dtype=np.float64)
        return lengths if self.target is None else -np.abs(lengths - self.target)


class FormatScorer:
    """1 where the pattern is found in the response, else 0 (`^…$` for the whole of it)."""

    def __init__(self, pattern: str) -> None:
        self.pattern = re.compile(pattern)

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        found = [self.pattern.search(answer.response) is not None for answer in answers]
        return np.array(found, dtype=np.float64)


class PatternVerifier:
    """1 where the pattern's last match in the response holds the prompt's reference answer.

    Both are compared without white space around them; no match is wrong.
    """

    def __init__(self, pattern: str, references: Mapping[str, str]) -> None:
        self.pattern, self.references = re.compile(pattern), references

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        return np.array([self._right(answer) for answer in answers], dtype=np.float64)

    def _right(self, answer: Answer) -> bool:
        if answer.prompt_id not in self.references:
            raise DataError(
                f"the prompt {answer.prompt!r} has no reference answer to verify against; give "
                "the file a column `reference`"
            )
        said = self.pattern.findall(answer.response)
        return bool(said) and said[-1].strip() == self.references[answer.prompt_id].strip()


class Verified:
    """A scorer that must say 0 or 1."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """float[R] of 0 and 1. Raises `DataError` naming the prompt of any other score."""
        values = self.scorer.score(answers)
        for answer, value in zip(answers, values, strict=True):
            if value not in (0.0, 1.0):
                raise DataError(
                    f"a verifier says 0 or 1, but the answer {answer.response!r} to the prompt "
                    f"{answer.prompt!r} got {value:g}; use reward=gold for graded scores"
                )
        return values


class EnsembleSource:
    """Several members combined into one score (arXiv 2310.02743); the members go along.

    Members have arbitrary zero points, so each is centred by its mean over the pool's answers
    before `min` and the standard deviation are taken. `mean_minus_sd` is the mean less
    `sd_weight` times the standard deviation (ddof 1) over the members.
    """

    one_scale = True

    def __init__(
        self,
        members: dict[str, TrainingReward],
        combine: Literal["mean", "min", "mean_minus_sd"],
        sd_weight: float,
    ) -> None:
        self.parts, self.combine, self.sd_weight = members, combine, sd_weight

    def table(self, answers: Sequence[Answer], read: Read) -> RewardTable:
        columns = [_scores(read(part)) - part.mean() for part in self.parts.values()]
        members = np.stack(columns, axis=1)
        values = self.combined(members)
        return RewardTable(_prompts(answers), values, values, extra_rewards=members)

    def combined(self, members: Floats) -> Floats:
        """float[R] from float[R, M]."""
        if self.combine == "min":
            return np.asarray(members.min(axis=1))
        mean = members.mean(axis=1)
        if self.combine == "mean":
            return np.asarray(mean)
        return np.asarray(mean - self.sd_weight * members.std(axis=1, ddof=1))


class SumSource:
    """A weighted sum of sources."""

    one_scale = False

    def __init__(self, terms: dict[str, TrainingReward], weights: dict[str, float]) -> None:
        self.parts, self.weights = terms, weights

    def table(self, answers: Sequence[Answer], read: Read) -> RewardTable:
        values = np.zeros(len(answers))
        for name, part in self.parts.items():
            values = values + self.weights[name] * _scores(read(part))
        return RewardTable(_prompts(answers), values, values)


class VectorSource:
    """Sources side by side: the first is the reward, the others are further rewards."""

    one_scale = False

    def __init__(self, terms: dict[str, TrainingReward], weights: dict[str, float]) -> None:
        self.parts, self.weights = terms, weights

    def table(self, answers: Sequence[Answer], read: Read) -> RewardTable:
        (name, first), *others = [(name, read(part)) for name, part in self.parts.items()]
        extra = [self.weights[other] * _scores(table) for other, table in others]
        factor = self.weights[name]
        reward = None if first.reward is None else factor * first.reward
        return RewardTable(
            first.prompts, first.rank if reward is None else reward, reward, np.stack(extra, axis=1)
        )


class PairwiseSource:
    """P(i beats j) from another source, and its mean over the prompt's others as reward.

    `sign`: 1, ½ or 0 as i ranks above, with or below j. `sigmoid`: σ((r_i - r_j)/τ), the
    Bradley–Terry model. The reward is the mean win probability against the other responses of
    the prompt, as in arXiv 2401.04056.
    """

    one_scale = False

    def __init__(
        self, source: TrainingReward, rule: Literal["sign", "sigmoid"], tau: float
    ) -> None:
        self.parts = {"source": source}
        self.rule, self.tau = rule, tau

    def table(self, answers: Sequence[Answer], read: Read) -> RewardTable:
        table = read(self.parts["source"])
        values = table.rank if self.rule == "sign" else _scores(table)
        probabilities: list[list[float]] = [[] for _ in answers]
        for rows in rows_by_prompt(table.prompts):
            gaps = values[rows][:, None] - values[rows][None, :]
            wins = (np.sign(gaps) + 1) / 2 if self.rule == "sign" else _sigmoid(gaps / self.tau)
            for row, line in zip(rows, wins.tolist(), strict=True):
                probabilities[row] = line
        return with_win_probs(answers, probabilities)


class PreferenceSource:
    """P(i beats j) from a preference model, and its mean over the prompt's others as reward."""

    one_scale = False

    def __init__(self, model: Preference) -> None:
        self.parts: dict[str, TrainingReward] = {}
        self.model = model

    def table(self, answers: Sequence[Answer], read: Read) -> RewardTable:
        return with_win_probs(answers, self.model.compare(answers))


def with_win_probs(answers: Sequence[Answer], probabilities: list[list[float]]) -> RewardTable:
    """The table of a pairwise source: an answer with no rival wins half."""
    rates = [
        (sum(line) - 0.5) / (len(line) - 1) if len(line) > 1 else 0.5 for line in probabilities
    ]
    values = np.array(rates, dtype=np.float64)
    return RewardTable(_prompts(answers), values, values, win_probs=probabilities)


def _prompts(answers: Sequence[Answer]) -> NDArray[np.object_]:
    return np.array([answer.prompt_id for answer in answers], dtype=object)


def _scores(table: RewardTable) -> Floats:
    if table.reward is None:
        raise DataError("a source of order alone has no scores to combine")
    return table.reward


def _checked(values: NDArray[np.float64], answers: Sequence[Answer]) -> Floats:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"the reward of an answer to the prompt {answers[bad[0]].prompt!r} is "
            f"{values[bad[0]]}; it must be finite"
        )
    return np.asarray(values, dtype=np.float64)


def _sigmoid(values: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-values)))
