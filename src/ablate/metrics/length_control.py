"""The length-controlled win rate (AlpacaEval 2, arXiv 2404.04475) by a regularised regression."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ablate.errors import DataError
from ablate.metrics.summary import LEVEL, Estimate

#: L2 penalty on the length and difficulty terms; as weak as keeps separated data finite
PENALTY = 0.01
STEPS = 100


def length_controlled(
    scores: NDArray[Any],
    baseline: NDArray[Any],
    lengths: NDArray[Any],
    baseline_lengths: NDArray[Any],
    prompts: NDArray[Any],
) -> Estimate:
    """The win rate that a logistic regression predicts for answers of equal length.

    Preference (win 1, tie ½, loss 0) is regressed on a model term, tanh of the length difference
    in standard deviations, and the instruction's difficulty; the prediction sets the length
    difference to 0 and is averaged over prompts. Difficulty is the baseline's own standardised
    score on the prompt, where AlpacaEval estimates it from a leaderboard of models; the model term
    is unpenalised and the other two have an L2 penalty of 0.01 in place of a cross-validated L1.
    The standard error is the sandwich's, clustered by prompt, by the delta method.

    Args:
        scores, baseline: float[R], judge scores of paired answers.
        lengths, baseline_lengths: [R], characters.
        prompts: [R].

    Raises:
        DataError: fewer than three prompts.
    """
    names, index = np.unique(prompts, return_inverse=True)
    if len(names) < 3:
        raise DataError("a length-controlled win rate needs three prompts or more")
    wins = (scores > baseline) + 0.5 * (scores == baseline)
    gap = np.asarray(lengths, dtype=float) - np.asarray(baseline_lengths, dtype=float)
    spread = gap.std()
    length_term = np.tanh(gap / spread) if spread > 0 else np.zeros_like(gap)
    difficulty = np.asarray(baseline, dtype=float) - np.mean(baseline)
    if difficulty.std() > 0:
        difficulty = difficulty / difficulty.std()
    design = np.column_stack([np.ones_like(gap), length_term, difficulty])
    # all wins, or all losses, have no finite model term; a hundredth of an answer of each keeps one
    wins = np.clip(wins, 0.01 / len(wins), 1 - 0.01 / len(wins))
    beta, information = _logistic(design, wins)
    equal = design.copy()
    equal[:, 1] = 0
    predicted = special.expit(equal @ beta)
    mean_weights = 1 / (np.bincount(index)[index] * len(names))
    estimate = float(mean_weights @ predicted)
    gradient = (mean_weights * predicted * (1 - predicted)) @ equal
    inverse = np.linalg.inv(information)
    scores_of = (wins - special.expit(design @ beta))[:, None] * design
    # a prompt moves the estimate through the coefficients and by being averaged over
    moved = scores_of @ inverse @ gradient + mean_weights * (predicted - estimate)
    by_prompt = np.bincount(index, weights=moved)
    n = len(names)
    se = float(np.sqrt((by_prompt**2).sum() * n / (n - 1)))
    half = float(special.stdtrit(n - 1, 0.5 + LEVEL / 2)) * se
    return Estimate(estimate, se, max(0.0, estimate - half), min(1.0, estimate + half), n)


def _logistic(design: NDArray[Any], target: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Coefficients and information matrix of the penalised regression, by Newton's method."""
    penalty = np.diag([0.0] + [PENALTY] * (design.shape[1] - 1))
    beta = np.zeros(design.shape[1])
    information = np.eye(len(beta))
    for _ in range(STEPS):
        p = special.expit(design @ beta)
        information = (design * (p * (1 - p))[:, None]).T @ design + penalty
        # the floor only matters where every answer is a sure win or loss
        step = np.linalg.solve(
            information + 1e-9 * np.eye(len(beta)), design.T @ (target - p) - penalty @ beta
        )
        step *= min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12))
        beta = beta + step
        if np.abs(step).max() < 1e-10:
            break
    return beta, information + 1e-9 * np.eye(len(beta))
