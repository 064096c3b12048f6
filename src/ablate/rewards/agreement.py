"""How well scores agree with labels: accuracy, calibration and correlation within prompts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ablate.rewards.normalize import rows_by_prompt

#: equal bins of the confidence, from ½ to 1
BINS = 10


def agreement(
    scores: NDArray[Any],
    labels: NDArray[Any],
    prompts: NDArray[Any],
    clean: NDArray[Any] | None = None,
) -> dict[str, float | None]:
    """All measures of this module as plain data; None where one is not defined.

    Accuracy and calibration compare with the labels, which training may have seen like;
    `accuracy_clean` and the correlations within prompts, `pearson` and `spearman`, compare with
    `clean`, the scores behind the labels: the judge's, or those that came with the data.
    """
    clean = labels if clean is None else clean
    return _plain(
        accuracy=pair_accuracy(scores, labels, prompts),
        calibration_error=calibration_error(scores, labels, prompts),
        accuracy_clean=pair_accuracy(scores, clean, prompts),
        pearson=within_prompt_correlation(scores, clean, prompts),
        spearman=within_prompt_correlation(scores, clean, prompts, ranks=True),
    )


def _plain(**values: float) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def pairwise_agreement(
    win_probs: Sequence[Sequence[float]],
    labels: NDArray[Any],
    prompts: NDArray[Any],
    clean: NDArray[Any] | None = None,
) -> dict[str, float | None]:
    """The same of a source that compares: accuracy and calibration of its own probabilities.

    The correlations are those of the mean win probability within the prompt.

    Args:
        win_probs: per row, P(it beats row j) for the rows j of its prompt in their order.
    """
    clean = labels if clean is None else clean
    rates = np.array([np.mean(line) for line in win_probs])
    of_labels, of_clean = (_win_gaps(win_probs, truth, prompts) for truth in (labels, clean))
    return agreement(rates, labels, prompts, clean) | _plain(
        accuracy=_accuracy(of_labels),
        calibration_error=_calibration(of_labels),
        accuracy_clean=_accuracy(of_clean),
    )


def _win_gaps(
    win_probs: Sequence[Sequence[float]], truth: NDArray[Any], prompts: NDArray[Any]
) -> NDArray[np.float64]:
    """log P/(1 - P) of the better response, for every untied within-prompt pair."""
    found = [np.empty(0)]
    for rows in rows_by_prompt(prompts):
        wins = np.clip([win_probs[row] for row in rows], 1e-12, 1 - 1e-12)
        order = np.sign(truth[rows][:, None] - truth[rows][None, :])
        found.append((np.log(wins / (1 - wins)) * order)[np.triu(order != 0, 1)])
    return np.concatenate(found)


def pair_accuracy(scores: NDArray[Any], truth: NDArray[Any], prompts: NDArray[Any]) -> float:
    """Share of within-prompt pairs, untied in `truth`, that `scores` orders the same way.

    Ties of `scores` count half. NaN where no pair is untied.
    """
    return _accuracy(_gaps(scores, truth, prompts))


def calibration_error(scores: NDArray[Any], truth: NDArray[Any], prompts: NDArray[Any]) -> float:
    """Expected calibration error of P(i beats j) = σ(r_i - r_j) over untied within-prompt pairs.

    Each pair is read from the side of the response that the scores prefer, with confidence
    c = max(P, 1 - P) in [½, 1]. The interval is cut into `BINS` equal bins, and
    ECE = Σ_b (n_b / n)·|share of b's pairs that `truth` orders the same way - mean c of b|.
    Ties of `scores` have c = ½ and count half right. The scores are taken raw, as Bradley–Terry
    training leaves them. NaN where no pair is untied.
    """
    return _calibration(_gaps(scores, truth, prompts))


def within_prompt_correlation(
    scores: NDArray[Any], truth: NDArray[Any], prompts: NDArray[Any], ranks: bool = False
) -> float:
    """Mean over prompts of Pearson's correlation among a prompt's responses.

    `ranks`: Spearman's, with mean ranks for ties. Prompts whose scores or truth do not vary are
    left out; NaN where none is left.
    """
    found = []
    for rows in rows_by_prompt(prompts):
        pair = [np.asarray(values, dtype=np.float64)[rows] for values in (scores, truth)]
        if ranks:
            pair = [rankdata(values) for values in pair]
        pair = [values - values.mean() for values in pair]
        norm = np.linalg.norm(pair[0]) * np.linalg.norm(pair[1])
        if norm > 0:
            found.append(float(pair[0] @ pair[1] / norm))
    return float(np.mean(found)) if found else float("nan")


def _gaps(scores: NDArray[Any], truth: NDArray[Any], prompts: NDArray[Any]) -> NDArray[np.float64]:
    """Score of the better minus score of the worse, for every untied within-prompt pair."""
    found = [np.empty(0)]
    for rows in rows_by_prompt(prompts):
        s, t = np.asarray(scores, dtype=np.float64)[rows], truth[rows]
        order = np.sign(t[:, None] - t[None, :])
        pairs = np.triu(order != 0, 1)
        found.append(((s[:, None] - s[None, :]) * order)[pairs])
    return np.concatenate(found)


def _accuracy(gaps: NDArray[np.float64]) -> float:
    return float(((np.sign(gaps) + 1) / 2).mean()) if len(gaps) else float("nan")


def _calibration(gaps: NDArray[np.float64]) -> float:
    if not len(gaps):
        return float("nan")
    confidence = 1 / (1 + np.exp(-np.abs(gaps)))
    right = (np.sign(gaps) + 1) / 2
    index = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    difference = np.bincount(index, weights=right - confidence, minlength=BINS)
    return float(np.abs(difference).sum() / len(gaps))
