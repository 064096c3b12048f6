"""Which choice matters: main effects and pairwise interactions of factors over a whole grid.

A linear mixed model on run means, with seeds and prompts random:

    value = mean + factors + pairs of factors + block + run + arm × prompt / P

Its variance components are the ANOVA's moment estimates (on a full grid these are REML's, where
REML's are not cut at 0); fixed effects by generalised least squares; degrees of freedom by
Satterthwaite. It is exact for full grids and needs no iteration.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

from ablate.analysis.blocked import fit_blocks, residuals
from ablate.analysis.lack_of_fit import LackOfFit, lack_of_fit
from ablate.analysis.multiplicity import holm
from ablate.errors import DataError


@dataclass(frozen=True)
class Effects:
    """What the grid says of each factor.

    terms: a row per factor and pair of factors: term, order (1 or 2), df, error_df, F, p, p_holm
        (over all terms), size with size_low and size_high: the standard deviation between the
        term's true level effects, in the metric's unit, with its 95 % interval.
    levels: a row per level of each factor: factor, level, effect (deviation of the level's mean
        from the mean of all levels), se, low, high (95 %, all levels at once by Bonferroni).
    sd_seed, sd_block, sd_prompt: standard deviations of a run's mean given its arm, of the blocks,
        and of an arm's mean due to the choice of prompts (NaN where no answers were given).
    left_out: pairs of factors whose interaction the grid cannot tell, and which is taken as zero.
    fit: whether the cells contradict that; None where the terms explain all cells.
    """

    terms: pd.DataFrame
    levels: pd.DataFrame
    sd_seed: float
    sd_block: float
    sd_prompt: float
    left_out: list[str]
    fit: LackOfFit | None


@dataclass(frozen=True)
class _Components:
    """Covariance of run means, in parts; `df` of each part."""

    error: float
    error_df: int
    block: float
    block_df: int
    prompt: float

    def covariance(self, arms: NDArray[Any], blocks: NDArray[Any]) -> NDArray[Any]:
        result = self.error * np.eye(len(arms)) + self.prompt * arms @ arms.T
        return np.asarray(result + self.block * blocks @ blocks.T)


def effects(
    runs: pd.DataFrame,
    factors: list[str],
    answers: pd.DataFrame | None = None,
    level: float = 0.95,
) -> Effects:
    """Main effects and pairwise interactions.

    Args:
        runs: a row per run: the factors, block (the seed) and value.
        factors: columns with at least two levels each.
        answers: a row per answer with block, prompt_id, value and the factors; with it the prompts
            are random too (the intervals speak of other prompts of the same kind), without it the
            prompts are those that were used.

    Raises:
        DataError: fewer than two levels, or no arm with a second seed.
    """
    for factor in factors:
        if runs[factor].nunique(dropna=False) < 2:
            raise DataError(f"{factor} has one level in these runs; an effect needs two")
    arms = list(runs[factors].itertuples(index=False, name=None))
    blocks = runs["block"].tolist()
    values = runs["value"].to_numpy(dtype=float)
    arm_matrix, block_matrix = _indicators(arms), _indicators(blocks)
    found = _components(arms, blocks, values, arm_matrix, block_matrix)
    if answers is not None:
        found = _with_prompts(found, answers, factors)
    design, spans, left_out = _design(runs, factors)
    fit = lack_of_fit(values, design, arm_matrix, block_matrix, found.error, found.error_df)
    covariance = found.covariance(arm_matrix, block_matrix)
    inverse = np.linalg.inv(covariance)
    information = design.T @ inverse @ design
    variance = np.linalg.inv(information)
    coefficients = variance @ design.T @ inverse @ values
    weights = variance @ design.T @ inverse
    parts = [
        weights @ part @ weights.T
        for part in (
            found.error * np.eye(len(values)) + found.prompt * arm_matrix @ arm_matrix.T,
            found.block * block_matrix @ block_matrix.T,
        )
    ]
    terms, levels = [], []
    for term, span in spans.items():
        df = _error_df(found, parts, span)
        table = np.ones((1, 1))
        for factor in term:
            table = np.kron(table, _coding(runs[factor].nunique(dropna=False)))
        found_term = _term(term, table, coefficients[span], variance[span, span], df, level)
        terms.append(found_term)
        if len(term) == 1:
            names = list(dict.fromkeys(runs[term[0]]))
            effect = table @ coefficients[span]
            se = np.sqrt(np.einsum("lc,cd,ld->l", table, variance[span, span], table))
            levels.append(
                pd.DataFrame(
                    {"factor": term[0], "level": names, "effect": effect, "se": se, "df": df}
                )
            )
    term_table = pd.DataFrame(terms)
    term_table["p_holm"] = holm(term_table["p"].to_numpy())
    level_table = pd.concat(levels, ignore_index=True)
    critical = stats.t.ppf(1 - (1 - level) / (2 * len(level_table)), level_table["df"])
    level_table["low"] = level_table["effect"] - critical * level_table["se"]
    level_table["high"] = level_table["effect"] + critical * level_table["se"]
    prompt = float("nan") if answers is None else float(np.sqrt(found.prompt))
    return Effects(
        term_table,
        level_table,
        float(np.sqrt(found.error)),
        float(np.sqrt(found.block)),
        prompt,
        left_out,
        fit,
    )


def _indicators(names: list[Any]) -> NDArray[Any]:
    """float[n, G]: which group each row belongs to."""
    order = {name: index for index, name in enumerate(dict.fromkeys(names))}
    result = np.zeros((len(names), len(order)))
    result[np.arange(len(names)), [order[name] for name in names]] = 1
    return result


def _components(
    arms: list[Any],
    blocks: list[Any],
    values: NDArray[Any],
    arm_matrix: NDArray[Any],
    block_matrix: NDArray[Any],
) -> _Components:
    """Error and block variance: blocks after arms, error after both (Henderson's method III)."""
    fit = fit_blocks(arms, blocks, values)
    if fit.df < 1 or not np.isfinite(fit.variance):
        raise DataError("main effects need arms with at least two seeds, and a spread between them")
    after_arms = np.eye(len(values)) - arm_matrix @ np.linalg.pinv(arm_matrix)
    both = np.linalg.matrix_rank(np.hstack([arm_matrix, block_matrix]))
    block_df = int(both - arm_matrix.shape[1])
    error = float(fit.variance)
    if block_df == 0:
        return _Components(error, fit.df, 0.0, 0, 0.0)
    squares = float(values @ after_arms @ values) - error * fit.df
    expected = float(np.trace(block_matrix.T @ after_arms @ block_matrix))
    block = max(0.0, (squares - block_df * error) / expected)
    return _Components(error, fit.df, block, block_df, 0.0)


def _with_prompts(found: _Components, answers: pd.DataFrame, factors: list[str]) -> _Components:
    """Adds the variance that the choice of prompts gives an arm's mean: arm × prompt / prompts."""
    wide = answers.pivot_table(
        index=[*factors, "block"],
        columns="prompt_id",
        values="value",
        aggfunc="mean",
        sort=False,
        dropna=False,
    )
    # combinations of levels that no run has first, else they would take all prompts along
    wide = wide.dropna(axis=0, how="all").dropna(axis=1)
    num_prompts = wide.shape[1]
    if num_prompts < 2:
        raise DataError("the runs answered fewer than two prompts in common")
    index = wide.index.to_frame(index=False)
    arms = list(index[factors].itertuples(index=False, name=None))
    blocks = index["block"].tolist()
    values = wide.to_numpy(dtype=float)
    left = values - values.mean(axis=1, keepdims=True)
    within = residuals(arms, blocks, left)
    block_matrix, arm_matrix = _indicators(blocks), _indicators(arms)
    design = np.hstack([arm_matrix, block_matrix])
    rank = int(np.linalg.matrix_rank(design))
    spread = float((within**2).sum()) / ((len(values) - rank) * (num_prompts - 1))
    after_blocks = np.eye(len(values)) - block_matrix @ np.linalg.pinv(block_matrix)
    of_arms = after_blocks @ left
    arm_df = rank - block_matrix.shape[1]
    squares = float((of_arms**2).sum() - (within**2).sum()) / (num_prompts - 1)
    runs_per_arm = float(np.trace(arm_matrix.T @ after_blocks @ arm_matrix))
    interaction = max(0.0, (squares - arm_df * spread) / runs_per_arm)
    return _Components(
        found.error, found.error_df, found.block, found.block_df, interaction / num_prompts
    )


def _coding(levels: int) -> NDArray[Any]:
    """float[L, L-1]: effect coding, in which the last level is minus the sum of the others."""
    return np.vstack([np.eye(levels - 1), -np.ones(levels - 1)])


def _codes(column: pd.Series) -> NDArray[Any]:
    """float[n, L-1]: the coding of each run's level."""
    at = {name: index for index, name in enumerate(dict.fromkeys(column))}
    return np.asarray(_coding(len(at))[[at[name] for name in column]])


def _design(
    runs: pd.DataFrame, factors: list[str]
) -> tuple[NDArray[Any], dict[tuple[str, ...], slice], list[str]]:
    """Intercept, factors and the pairs whose every combination has runs; where each term lies."""
    columns, spans = [np.ones((len(runs), 1))], {}
    left_out = []
    start = 1

    def add(term: tuple[str, ...], block: NDArray[Any]) -> bool:
        nonlocal start
        candidate = np.hstack([*columns, block])
        if np.linalg.matrix_rank(candidate) < candidate.shape[1]:
            return False
        columns.append(block)
        spans[term] = slice(start, start + block.shape[1])
        start += block.shape[1]
        return True

    for factor in factors:
        if not add((factor,), _codes(runs[factor])):
            raise DataError(
                f"the levels of {factor} always change together with another factor's, "
                "so their effects cannot be told apart"
            )
    for first, second in combinations(factors, 2):
        a, b = _codes(runs[first]), _codes(runs[second])
        product = (a[:, :, None] * b[:, None, :]).reshape(len(runs), -1)
        if not add((first, second), product):
            left_out.append(f"{first} × {second}")
    return np.hstack(columns), spans, left_out


def _error_df(found: _Components, parts: list[NDArray[Any]], span: slice) -> float:
    """Satterthwaite's degrees of freedom of a term's variance: runs, and blocks where they enter.

    What prompts add is estimated on so many answers that its own uncertainty does not count.
    """
    runs, blocks = (float(np.trace(part[span, span])) for part in parts)
    if blocks <= 1e-9 * runs:
        return float(found.error_df)
    return (runs + blocks) ** 2 / (runs**2 / found.error_df + blocks**2 / max(found.block_df, 1))


def _term(
    term: tuple[str, ...],
    table: NDArray[Any],
    beta: NDArray[Any],
    variance: NDArray[Any],
    error_df: float,
    level: float,
) -> dict[str, Any]:
    """A row of `terms`; `table` maps the coefficients to the effects of all level combinations."""
    df = len(beta)
    statistic = float(beta @ np.linalg.solve(variance, beta)) / df
    # the noncentrality per unit of squared size: how many squared standard errors a term of
    # standard deviation 1 between its levels would be worth
    size = float(np.sqrt(((table @ beta) ** 2).mean()))
    scale = size / np.sqrt(statistic * df) if statistic > 0 else 0.0
    low, high = (
        scale * np.sqrt(_noncentrality(statistic, df, error_df, tail))
        for tail in ((1 + level) / 2, (1 - level) / 2)
    )
    unbiased = max(0.0, statistic * df - df)
    return {
        "term": " × ".join(term),
        "order": len(term),
        "df": df,
        "error_df": error_df,
        "F": statistic,
        "p": float(stats.f.sf(statistic, df, error_df)),
        "size": float(scale * np.sqrt(unbiased)),
        "size_low": float(low),
        "size_high": float(high),
    }


def _noncentrality(statistic: float, df: int, error_df: float, tail: float) -> float:
    """The noncentrality under which an F as large as seen has the probability `tail` to its left.

    0 where even no effect makes so small a value likely enough.
    """

    def below(nc: float) -> float:
        return float(stats.ncf.cdf(statistic, df, error_df, nc)) - tail

    if statistic <= 0 or stats.f.cdf(statistic, df, error_df) < tail:
        return 0.0
    high = max(10.0, 4 * statistic * df)
    while below(high) > 0:
        high *= 2
    return float(optimize.brentq(below, 0.0, high))
