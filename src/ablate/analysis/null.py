"""Studies in which nothing differs, and the share of them that each kind of test calls a finding.

Units: the standard error of a run's mean over prompts is 1. Shapes: T tables, A arms, S seeds,
P prompts; the first arm is the baseline.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ablate.analysis.blocked import fit_blocks
from ablate.analysis.multiplicity import holm, two_sided
from ablate.analysis.tuning import Tuned, choose
from ablate.results.sweeps import REPORT, TUNE

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


def tuned_cells(
    rng: np.random.Generator,
    tables: int,
    trials: tuple[int, ...],
    seeds: int,
    ratio: float,
    *,
    report: str,
    quality: float = 0.0,
    tuning_seeds: int = 1,
) -> Iterator[list[Tuned]]:
    """Per table a cell for each arm, chosen by `tuning.choose`, every arm being the same.

    A trial has a quality of its own, drawn for each arm from one distribution. A run's own
    deviation shows on valid and on test, the prompts' noise does not.

    Args:
        trials: number of trials of each arm.
        report: `sweep`, with fresh seeds, as a sweep's second phase makes them; `fresh`, the same
            without phases; `reuse`, the seeds that chose.
        quality: standard deviation between trials, in prompt standard errors.
        tuning_seeds: seeds that every trial has; with `reuse` they are those reported.

    Yields:
        Cells whose frames have trial, seed, quality, valid and test.
    """
    spent = seeds if report == "reuse" else tuning_seeds
    for _ in range(tables):
        block = rng.normal(0, 2, spent + seeds)
        cells = []
        for count in trials:
            # every trial with the seeds that choose; then the chosen one with those that report
            trial = np.repeat(np.arange(count), spent)
            seed = np.tile(np.arange(spent), count)
            own = rng.normal(0, quality, count)
            noise = rng.normal(0, 1, (2, len(trial) + seeds))
            run = rng.normal(0, ratio, len(trial) + seeds)
            valid = own[trial] + block[seed] + run[: len(trial)] + noise[0, : len(trial)]
            if report != "reuse":
                best = valid.reshape(count, spent).mean(axis=1).argmax()
                trial = np.concatenate([trial, np.full(seeds, best)])
                seed = np.concatenate([seed, spent + np.arange(seeds)])
            shared = own[trial] + block[seed] + run[: len(trial)]
            frame = pd.DataFrame(
                {
                    "trial": [str(number) for number in trial], "seed": seed,
                    "quality": own[trial], "valid": shared + noise[0, : len(trial)],
                    "test": shared + noise[1, : len(trial)],
                }
            )  # fmt: skip
            if report == "sweep":
                frame["phase"] = [TUNE] * (count * spent) + [REPORT] * seeds
            elif count == 1:
                # nothing to choose: without phases all of its runs would be reported
                frame = frame[-seeds:]
            cells.append(choose(frame, "valid", reuse=report == "reuse"))
        yield cells


def reported(cells: Iterable[list[Tuned]], column: str = "test") -> Scores:
    """float[T, A, S]: what the runs say that `tuning.choose` reports."""
    return np.array([[cell.frame[column].to_numpy(float) for cell in table] for table in cells])


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
