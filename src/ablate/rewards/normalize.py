"""Normalisation of scores, so that eta means the same for every reward source. NumPy only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ablate.errors import DataError

How = Literal["within_prompt_sd", "none", "centre", "z_score", "clip", "rank"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Normalizer:
    """Maps raw scores r to what training sees, with numbers fitted once on the offline pool.

    | how | what training sees |
    |---|---|
    | none | r |
    | within_prompt_sd | r / s, s the mean within-prompt standard deviation over the pool |
    | clip | (r - m) / s cut off at ±`clip_at`, m the pool's mean |
    | centre | r minus the prompt's mean |
    | z_score | that over the prompt's own standard deviation (0 where it has none) |
    | rank | the rank within the prompt, 0 for the worst to 1 for the best; ties share theirs |

    The last three look at a prompt's responses only, so an answer that stands alone keeps r.
    """

    how: How
    clip_at: float
    shift: float
    scale: float

    def apply(self, raw: NDArray[Any], prompts: NDArray[Any]) -> Floats:
        """float[R] for training. `prompts` [R] names the prompt of each score."""
        values = np.asarray(raw, dtype=np.float64)
        if self.how == "rank":
            return _by_prompt(values, prompts, _relative_rank)
        if self.how in ("centre", "z_score"):
            return _by_prompt(values, prompts, _centred if self.how == "centre" else _standard)
        return self.alone(values)

    def alone(self, raw: NDArray[Any]) -> Floats:
        """float[R]: the same where no other response to the prompt is at hand."""
        values = (np.asarray(raw, dtype=np.float64) - self.shift) / self.scale
        return np.clip(values, -self.clip_at, self.clip_at) if self.how == "clip" else values


def fit_normalizer(
    scores: NDArray[Any], prompts: NDArray[Any], how: How, clip_at: float
) -> Normalizer:
    """The normaliser of a pool's raw scores.

    Args:
        scores: float[R].
        prompts: [R], the prompt of each score.

    Raises:
        DataError: the source gives every response of every prompt the same score.
    """
    if how == "none":
        return Normalizer(how, clip_at, 0.0, 1.0)
    scale = score_scale(scores, prompts)
    if how == "clip":
        return Normalizer(how, clip_at, float(np.mean(scores)), scale)
    return Normalizer(how, clip_at, 0.0, scale if how == "within_prompt_sd" else 1.0)


def score_scale(scores: NDArray[Any], prompts: NDArray[Any]) -> float:
    """Mean over prompts of the standard deviation (ddof 1) among a prompt's responses.

    Prompts with one response say nothing and are left out.

    Raises:
        DataError: no prompt has two responses, or none whose responses differ in score.
    """
    _, index = np.unique(prompts, return_inverse=True)
    counts = np.bincount(index)
    means = np.bincount(index, weights=scores) / counts
    squares = np.bincount(index, weights=(scores - means[index]) ** 2)
    several = counts > 1
    if not several.any():
        raise DataError("no prompt has two scored responses: scores have no spread to divide by")
    scale = float(np.sqrt(squares[several] / (counts[several] - 1)).mean())
    if not scale > 0:
        raise DataError(
            "the reward source gives all responses of a prompt the same score; there is nothing "
            "to learn from it (reward.normalize=none would only hide that)"
        )
    return scale


def rows_by_prompt(prompts: NDArray[Any]) -> Iterator[NDArray[np.intp]]:
    """The rows of each prompt, prompts in the order of their names."""
    by_prompt = np.argsort(prompts, kind="stable")
    starts = np.flatnonzero(np.r_[True, prompts[by_prompt][1:] != prompts[by_prompt][:-1]])
    yield from np.split(by_prompt, starts[1:])


def _by_prompt(values: Floats, prompts: NDArray[Any], change: Any) -> Floats:
    result = np.empty_like(values)
    for rows in rows_by_prompt(prompts):
        result[rows] = change(values[rows])
    return result


def _centred(values: Floats) -> Floats:
    return values - values.mean()


def _standard(values: Floats) -> Floats:
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return _centred(values) / spread if spread > 0 else np.zeros_like(values)


def _relative_rank(values: Floats) -> Floats:
    if len(values) == 1:
        return np.array([0.5])
    ranks: Floats = (rankdata(values) - 1) / (len(values) - 1)
    return ranks
