"""How many seeds or prompts a difference would need, from the spread that was seen."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analysis.blocked import fit_blocks, residuals

MOST_PROMPTS = 10**9
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Spread:
    """Where the spread between runs of one arm comes from, as variances of a run's mean.

    `seed` would stay with infinitely many prompts; `prompts` is what a finite number of them adds.
    """

    seed: float
    prompts: float
    num_prompts: int

    def variance(self, num_prompts: float) -> float:
        """Variance of a run's mean, given arm and seed, with another number of prompts."""
        return self.seed + self.prompts * self.num_prompts / num_prompts


def power(
    difference: float, sd: float, seeds: int, arms: int, comparisons: int, alpha: float = 0.05
) -> float:
    """Probability that a true difference is found, in a full table of arms × seeds.

    The two-sided t test of the blocked ANOVA at level alpha / comparisons, the first and hardest
    step of Holm: with several true differences the probability is higher.

    Args:
        sd: standard deviation between runs of an arm once the seed's block effect is taken out.
    """
    df = (arms - 1) * (seeds - 1)
    if df < 1:
        return 0.0
    critical = stats.t.ppf(1 - alpha / (2 * comparisons), df)
    shift = abs(difference) / (sd * math.sqrt(2 / seeds))
    return float(stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift))


def seeds_needed(
    difference: float,
    sd: float,
    arms: int,
    comparisons: int,
    *,
    alpha: float = 0.05,
    wanted: float = 0.8,
) -> int | None:
    """The fewest seeds per arm that find the difference with probability `wanted`.

    None where more than 10,000 would be needed.

    Raises:
        ValueError: a difference of 0, which no number of seeds finds.
    """
    if difference == 0:
        raise ValueError("a difference of 0 cannot be found with any number of seeds")
    return fewest(
        lambda seeds: power(difference, sd, seeds, arms, comparisons, alpha) >= wanted, MOST_SEEDS
    )


def fewest(enough: Callable[[int], bool], most: int) -> int | None:
    """The smallest number from 2 up that is enough, if those above it are; None beyond `most`."""
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable(
    sd: float,
    seeds: int,
    arms: int,
    comparisons: int,
    *,
    alpha: float = 0.05,
    wanted: float = 0.8,
) -> float:
    """The smallest difference found with probability `wanted`; infinite with one seed."""
    if (arms - 1) * (seeds - 1) < 1 or not sd > 0:
        return math.inf
    low, high = 0.0, sd
    while power(high, sd, seeds, arms, comparisons, alpha) < wanted:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        if power(middle, sd, seeds, arms, comparisons, alpha) < wanted:
            low = middle
        else:
            high = middle
    return high


def spread(answers: pd.DataFrame) -> Spread:
    """Splits the spread between runs of an arm into seed and prompts.

    Args:
        answers: a row per answer with the columns arm, block, prompt_id, value. Only prompts that
            every run answered are used; answers of one run to one prompt are averaged first.

    The model is value = arm + block + prompt + arm·block + (arm, block)·prompt with prompts crossed
    with runs: after the main effects of runs and prompts are taken out, the mean square that is
    left, divided by the number of prompts, is what prompts add to the variance of a run's mean;
    the rest of the blocked residual variance belongs to the seed (0 where it would be negative).

    Raises:
        ValueError: fewer than two prompts in common, or no two runs to compare.
    """
    wide = answers.pivot_table(
        index=["arm", "block"], columns="prompt_id", values="value", aggfunc="mean", sort=False
    ).dropna(axis=1)
    prompts = wide.shape[1]
    if prompts < 2:
        raise ValueError("the runs answered fewer than two prompts in common")
    values = wide.to_numpy(dtype=float)
    arms = wide.index.get_level_values("arm").tolist()
    blocks = wide.index.get_level_values("block").tolist()
    fit = fit_blocks(arms, blocks, values.mean(axis=1))
    if fit.df < 1:
        raise ValueError("one seed, or one arm, has no spread between runs to split")
    left = values - values.mean(axis=1, keepdims=True)
    # arm and block effects on single prompts are no noise between runs of an arm
    projected = residuals(arms, blocks, left)
    per_prompt = float((projected**2).sum() / (fit.df * (prompts - 1)))
    total = float(fit.variance) if np.isfinite(fit.variance) else 0.0
    from_prompts = per_prompt / prompts
    return Spread(max(0.0, total - from_prompts), from_prompts, prompts)


def prompts_needed(
    difference: float,
    found: Spread,
    seeds: int,
    arms: int,
    comparisons: int,
    *,
    alpha: float = 0.05,
    wanted: float = 0.8,
) -> int | None:
    """The fewest prompts that find the difference with these seeds; None where none suffice.

    Prompts reduce only their own part of the spread: below the seeds' part no number helps.
    """
    if found.seed > 0 and (
        power(difference, math.sqrt(found.seed), seeds, arms, comparisons, alpha) < wanted
    ):
        return None

    def enough(prompts: int) -> bool:
        sd = math.sqrt(found.variance(prompts))
        return sd == 0 or power(difference, sd, seeds, arms, comparisons, alpha) >= wanted

    return fewest(enough, MOST_PROMPTS)
