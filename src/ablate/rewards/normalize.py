"""Normalisation of scores, so that eta means the same for every reward source. NumPy only."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ablate.errors import DataError


def score_scale(
    scores: NDArray[Any], prompts: NDArray[Any], how: Literal["within_prompt_sd", "none"]
) -> float:
    """The number that scores are divided by.

    `within_prompt_sd` is the mean over prompts of the standard deviation (ddof 1) among a prompt's
    responses; prompts with one response say nothing and are left out.

    Args:
        scores: float[R].
        prompts: [R], the prompt of each score.

    Raises:
        DataError: the source gives every response of every prompt the same score.
    """
    if how == "none":
        return 1.0
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


def pair_accuracy(scores: NDArray[Any], truth: NDArray[Any], prompts: NDArray[Any]) -> float:
    """Share of within-prompt pairs, untied in `truth`, that `scores` orders the same way.

    Ties of `scores` count half. NaN where no pair is untied.
    """
    right = total = 0.0
    by_prompt = np.argsort(prompts, kind="stable")
    starts = np.flatnonzero(np.r_[True, prompts[by_prompt][1:] != prompts[by_prompt][:-1]])
    for rows in np.split(by_prompt, starts[1:]):
        s, t = scores[rows], truth[rows]
        order = np.sign(t[:, None] - t[None, :])
        upper = np.triu(order != 0, 1)
        agree = np.sign(s[:, None] - s[None, :]) * order
        right += float(((agree + 1) / 2)[upper].sum())
        total += float(upper.sum())
    return right / total if total else float("nan")
