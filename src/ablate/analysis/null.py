"""Studies in which nothing differs, and the share of them that each kind of test calls a finding.

Units: the standard error of a run's mean over prompts is 1. Shapes: T tables, A arms, S seeds,
P prompts; the first arm is the baseline.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ablate.analysis.blocked import fit_blocks
from ablate.analysis.multiplicity import holm, two_sided

Scores = NDArray[np.float64]


def null_means(
    rng: np.random.Generator, tables: int, arms: int, seeds: int, ratio: float
) -> Scores:
    """float[T, A, S]: run means when every arm is the same.

    Args:
        ratio: standard deviation between seeds of an arm, in prompt standard errors.
    """
    block = rng.normal(0, 2, (tables, 1, seeds))
    run = rng.normal(0, ratio, (tables, arms, seeds))
    return np.asarray(block + run + rng.normal(0, 1, (tables, arms, seeds)))


def null_scores(
    rng: np.random.Generator, tables: int, arms: int, seeds: int, prompts: int, ratio: float
) -> Scores:
    """float[T, A, S, P]: scores of single answers of such studies."""
    block = rng.normal(0, 2, (tables, 1, seeds, 1))
    prompt = rng.normal(0, np.sqrt(prompts), (tables, 1, 1, prompts))
    run = rng.normal(0, ratio, (tables, arms, seeds, 1))
    noise = rng.normal(0, np.sqrt(prompts), (tables, arms, seeds, prompts))
    return np.asarray(block + prompt + run + noise)


def tuned_means(
    rng: np.random.Generator,
    tables: int,
    trials: tuple[int, ...],
    seeds: int,
    ratio: float,
    *,
    fresh: bool,
) -> Scores:
    """float[T, A, S]: test means of each arm's best trial on valid, every trial being the same.

    A run's own quality shows on valid and on test, the prompts' noise does not.

    Args:
        trials: number of trials of each arm.
        fresh: report seeds that took no part in the choice; False reports those that did.
    """
    block = rng.normal(0, 2, (tables, 1, seeds))
    chosen = []
    for count in trials:
        run = rng.normal(0, ratio, (tables, count, seeds))
        valid = (block + run + rng.normal(0, 1, run.shape)).mean(axis=2)
        best = valid.argmax(axis=1)
        chosen.append(run[np.arange(tables), best])
    quality = np.stack(chosen, axis=1)
    if fresh:
        return null_means(rng, tables, len(trials), seeds, ratio)
    return np.asarray(block + quality + rng.normal(0, 1, quality.shape))


def blocked_p(means: Scores) -> Scores:
    """float[T, A-1]: the table's own test, corrected by Holm."""
    return holm(blocked_p_single(means))


def blocked_p_single(means: Scores) -> Scores:
    """The same without correction."""
    tables, arms, seeds = means.shape
    names = np.repeat(np.arange(arms), seeds).tolist()
    blocks = np.tile(np.arange(seeds), arms).tolist()
    fit = fit_blocks(names, blocks, means.reshape(tables, -1))
    gap, se = fit.contrast(fit.pairs([(arm, 0) for arm in range(1, arms)]))
    return two_sided(gap / se, fit.df)


def own_pair_p(means: Scores) -> Scores:
    """Paired t test of each pair on its own seeds, Holm: honest, and nearly blind."""
    gap = means[:, 1:] - means[:, :1]
    seeds = gap.shape[2]
    t = gap.mean(axis=2) / (gap.std(axis=2, ddof=1) / np.sqrt(seeds))
    return holm(two_sided(t, seeds - 1))


def prompt_paired_p(scores: Scores) -> Scores:
    """Paired t test over prompts of seed-averaged answers, Holm: knows of no other seed."""
    gap = (scores[:, 1:] - scores[:, :1]).mean(axis=2)
    prompts = gap.shape[2]
    t = gap.mean(axis=2) / (gap.std(axis=2, ddof=1) / np.sqrt(prompts))
    return holm(two_sided(t, prompts - 1))


def bootstrap_p(rng: np.random.Generator, scores: Scores, draws: int = 200) -> Scores:
    """Bootstrap over prompts and seeds, Holm: with few seeds it shrinks their spread."""
    gap = scores[:, 1:] - scores[:, :1]
    _, _, seeds, prompts = gap.shape
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    of_prompts = rng.multinomial(prompts, np.full(prompts, 1 / prompts), draws) / prompts
    drawn = np.einsum("bs,tasp,bp->tab", of_seeds, gap, of_prompts, optimize=True)
    z = gap.mean(axis=(2, 3)) / drawn.std(axis=2, ddof=1)
    return holm(np.asarray(2 * stats.norm.sf(np.abs(z))))


def share_with_a_finding(p: Scores, alpha: float = 0.05) -> tuple[float, float, float]:
    """Share of tables with any significant cell, with its exact 99 % Monte Carlo interval."""
    found: NDArray[np.bool_] = np.any(p <= alpha, axis=1)
    count = int(found.sum())
    interval: Any = stats.binomtest(count, len(found)).proportion_ci(0.99, method="exact")
    return count / len(found), float(interval.low), float(interval.high)
