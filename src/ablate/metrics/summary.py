"""Means over prompts with their intervals: judge reward, win rate, KL, length of one policy."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and 95 % t-interval over `n` prompts.

    Such an interval speaks of these weights only: it knows nothing of other seeds.
    """

    mean: float
    se: float
    low: float
    high: float
    n: int


def mean_over_prompts(values: NDArray[Any], prompts: NDArray[Any]) -> Estimate:
    """Mean of `values` clustered by prompt.

    Args:
        values: float[R], one per answer; NaN is an error, never dropped.
        prompts: [R], the prompt of each answer. Answers to one prompt are averaged first.

    Raises:
        ValueError: no values, or an undefined one.
    """
    if len(values) == 0:
        raise ValueError("no answers to average")
    if not np.isfinite(values).all():
        raise ValueError("answers hold undefined values")
    _, index = np.unique(prompts, return_inverse=True)
    counts = np.bincount(index)
    means = np.bincount(index, weights=values.astype(np.float64)) / counts
    n = len(means)
    mean = float(means.mean())
    if n < 2:
        return Estimate(mean, 0.0, mean, mean, n)
    se = float(means.std(ddof=1) / np.sqrt(n))
    half = float(special.stdtrit(n - 1, 0.5 + LEVEL / 2)) * se
    return Estimate(mean, se, mean - half, mean + half, n)


def win_rate(scores: NDArray[Any], baseline: NDArray[Any], prompts: NDArray[Any]) -> Estimate:
    """Share of answers that beat the baseline's answer to the same prompt; a tie counts half.

    Args:
        scores, baseline: float[R], judge scores of paired answers.
        prompts: [R].
    """
    wins = (scores > baseline) + 0.5 * (scores == baseline)
    return mean_over_prompts(wins.astype(np.float64), prompts)


#: column of eval.parquet -> name of the metric; the judge's reward comes first
COLUMNS = {
    "judge_score": "reward",
    "baseline_score": "reward_sft",
    "kl": "kl",
    "kl_reference": "kl_reference",
    "num_tokens": "length",
    "truncated": "truncated",
    "train_reward": "train_reward",
    "baseline_train_reward": "train_reward_sft",
}


def summarize(columns: dict[str, NDArray[Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Every metric by split: {metric: {split: {mean, se, low, high, n}}}.

    Args:
        columns: the columns of eval.parquet as arrays of equal length; those of the training
            reward may be missing, where training saw no scores.
    """
    result: dict[str, dict[str, dict[str, float]]] = {}
    for split in dict.fromkeys(columns["split"].tolist()):
        rows = columns["split"] == split
        prompts = columns["prompt_id"][rows]
        for column, metric in COLUMNS.items():
            if column in columns:
                estimate = mean_over_prompts(columns[column][rows].astype(np.float64), prompts)
                result.setdefault(metric, {})[split] = asdict(estimate)
        won = win_rate(columns["judge_score"][rows], columns["baseline_score"][rows], prompts)
        result.setdefault("win_rate", {})[split] = asdict(won)
    return result
