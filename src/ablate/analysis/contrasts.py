"""Differences to a baseline from run means: estimate, corrected test, intervals, equivalence."""

from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analysis.blocked import Fit, fit_blocks
from ablate.analysis.multiplicity import holm, simultaneous_half_width, two_sided

LEVEL = 0.95
#: an arm, {arm: its baseline}, or pairs of both
Baseline = Hashable | dict[Hashable, Hashable] | list[tuple[Hashable, Hashable]]


def differences(
    runs: pd.DataFrame,
    baseline: Baseline,
    *,
    margin: float | Mapping[Hashable, float] | None = None,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Differences of every arm to its baseline, corrected over all of them together.

    The unit of inference is the run: `value` is a run's mean over prompts. Each stratum (a metric,
    or data on a scale of its own) has its own fit of arm + block and its own variance; the
    correction runs over all strata.

    Args:
        runs: a row per run with the columns arm, seed and value; `block` in place of `seed` where
            a seed is not the same draw everywhere, and `stratum` where there are several.
        baseline: an arm that all others are compared with, or {arm: its baseline}, or pairs of
            both; an arm that is its own baseline, or has none, is not compared.
        margin: differences within ±margin count as no difference; fixed before looking. A number,
            or {stratum: number} where only some strata have one.

    Returns:
        A row per comparison: stratum, arm, baseline, difference, se, df, t, p, p_holm, significant
        (p_holm ≤ 1 - level), low and high (simultaneous), low_single and high_single (of this
        comparison alone), effect (difference in standard deviations between runs), sd, and with a
        margin p_equivalent, p_equivalent_holm, equivalent. NaN where the runs cannot tell.
    """
    runs = runs.assign(stratum=runs.get("stratum", ""))
    block = "block" if "block" in runs else "seed"
    parts = []
    for stratum, rows in runs.groupby("stratum", sort=False, dropna=False):
        fit = fit_blocks(rows["arm"].tolist(), rows[block].tolist(), rows["value"].to_numpy())
        part = _compared(fit, _pairs(fit, baseline))
        parts.append(part.assign(stratum=[stratum] * len(part)))
    if not parts:
        return _corrected(pd.DataFrame(columns=["stratum", *_COLUMNS]), margin, level)
    return _corrected(pd.concat(parts, ignore_index=True), margin, level)


_COLUMNS = ["arm", "baseline", "difference", "se", "df", "sd"]


def _pairs(fit: Fit, baseline: Baseline) -> list[tuple[Hashable, Hashable]]:
    if not isinstance(baseline, list):
        chosen = baseline if isinstance(baseline, dict) else dict.fromkeys(fit.arms, baseline)
        baseline = [(arm, chosen[arm]) for arm in fit.arms if arm in chosen]
    there = set(fit.arms)
    return [(a, other) for a, other in baseline if a != other and {a, other} <= there]


def _compared(fit: Fit, pairs: list[tuple[Hashable, Hashable]]) -> pd.DataFrame:
    gap, se = fit.contrast(fit.pairs(pairs))
    sd = float(np.sqrt(fit.variance))
    # object columns: an arm may be a tuple, which pandas would take apart
    arms, others = (pd.Series([pair[i] for pair in pairs], dtype=object) for i in (0, 1))
    return pd.DataFrame(
        {"arm": arms, "baseline": others, "difference": gap, "se": se, "df": fit.df, "sd": sd}
    )


def _corrected(
    table: pd.DataFrame, margin: float | Mapping[Hashable, float] | None, level: float
) -> pd.DataFrame:
    gap, se, df = (table[name].to_numpy(dtype=float) for name in ("difference", "se", "df"))
    with np.errstate(invalid="ignore", divide="ignore"):
        t = gap / se
        p = two_sided(t, df)
        table = table.assign(t=t, p=p, p_holm=holm(p))
        table["significant"] = table["p_holm"] <= 1 - level
        made = int(np.isfinite(p).sum())
        half = simultaneous_half_width(se, df, max(made, 1), level)
        single = simultaneous_half_width(se, df, 1, level)
        table = table.assign(low=gap - half, high=gap + half)
        table = table.assign(low_single=gap - single, high_single=gap + single)
        table["effect"] = gap / table["sd"].to_numpy(dtype=float)
        if margin is not None:
            table["p_equivalent"] = equivalence_p(gap, se, df, _margins(table, margin))
            table["p_equivalent_holm"] = holm(table["p_equivalent"].to_numpy())
            table["equivalent"] = table["p_equivalent_holm"] <= 1 - level
    return table


def _margins(table: pd.DataFrame, margin: float | Mapping[Hashable, float]) -> np.ndarray:
    if isinstance(margin, Mapping):
        # NaN, and so no claim, where a stratum has no margin
        return table["stratum"].map(margin).to_numpy(dtype=float)
    return np.full(len(table), float(margin))


def equivalence_p(
    gap: np.ndarray, se: np.ndarray, df: np.ndarray | float, margin: np.ndarray | float
) -> np.ndarray:
    """p-values of two one-sided tests that a difference lies within ±margin (Schuirmann, 1987).

    Raises:
        ValueError: a margin that is not positive.
    """
    if (np.asarray(margin) <= 0).any():
        raise ValueError(f"the margin must be positive, not {margin}")
    with np.errstate(invalid="ignore", divide="ignore"):
        above = stats.t.sf((gap + margin) / se, df)
        below = stats.t.cdf((gap - margin) / se, df)
    return np.maximum(above, below)
