"""Many comparisons at once: Holm's correction, intervals that hold together, the possible best."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ablate.analysis.blocked import Fit


def two_sided(t: NDArray[Any], df: float | NDArray[Any]) -> NDArray[Any]:
    """p-values of t statistics."""
    return np.asarray(2 * stats.t.sf(np.abs(t), df))


def holm(p: NDArray[Any]) -> NDArray[Any]:
    """p-values adjusted by Holm's step-down procedure over the last axis (Holm, 1979).

    Args:
        p: float[..., m]; NaN stands for a comparison that could not be made: it stays NaN and does
            not count among the m.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, axis=-1, kind="stable")  # NaN last
    ranked = np.take_along_axis(p, order, axis=-1)
    made = np.isfinite(p).sum(axis=-1, keepdims=True)
    steps = np.maximum(made - np.arange(p.shape[-1]), 1)
    adjusted = np.minimum(np.maximum.accumulate(ranked * steps, axis=-1), 1)
    result = np.empty_like(p)
    np.put_along_axis(result, order, adjusted, axis=-1)
    return result


def simultaneous_half_width(
    se: NDArray[Any], df: float | NDArray[Any], comparisons: int, level: float
) -> NDArray[Any]:
    """Half widths of intervals that all hold at once with probability `level` (Bonferroni).

    Such an interval leaves out 0 only where Holm's test is significant too, since Holm rejects
    everything that Bonferroni does. Where Holm alone rejects, a table says so: intervals that are
    two-sided, finite and equivalent to Holm do not exist.
    """
    return np.asarray(stats.t.ppf(1 - (1 - level) / (2 * comparisons), df) * se)


def possible_best(fit: Fit, among: Sequence[Hashable], better: int, level: float) -> list[Hashable]:
    """A set of arms that holds the best one of `among` with probability `level`.

    Multiple comparisons with the best (Hsu, 1984), by Bonferroni's bound: an arm leaves the set
    when some other arm is better at a one-sided level divided by the number of other arms.

    Args:
        better: 1 where more is better, -1 where less is.
    """
    if len(among) < 2 or fit.df < 1:
        return list(among)
    critical = stats.t.ppf(1 - (1 - level) / (len(among) - 1), fit.df)
    kept = []
    for arm in among:
        others = [other for other in among if other != arm]
        gap, se = fit.contrast(fit.pairs([(other, arm) for other in others]))
        with np.errstate(invalid="ignore"):
            if not (better * gap > critical * se).any():
                kept.append(arm)
    return kept
