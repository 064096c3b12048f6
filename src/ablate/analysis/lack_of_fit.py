"""Whether the effects that a grid can tell explain its cells: the F test of lack of fit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True)
class LackOfFit:
    """F of cell means about the fitted effects, its degrees of freedom and p."""

    statistic: float
    df: int
    error_df: int
    p: float


def lack_of_fit(
    values: NDArray[Any],
    design: NDArray[Any],
    arms: NDArray[Any],
    blocks: NDArray[Any],
    error: float,
    error_df: int,
) -> LackOfFit | None:
    """Cells against effects, both beside blocks (fixed); None where the effects are all cells.

    Args:
        values: float[n], one per run.
        design: float[n, E], the effects that were fitted; spanned by `arms`.
        arms, blocks: float[n, ·], indicators of cells and of blocks.
        error, error_df: variance of a run given its cell and block.
    """
    squares, ranks = [], []
    for columns in (design, arms):
        both = np.hstack([columns, blocks])
        left = values - both @ np.linalg.lstsq(both, values, rcond=None)[0]
        squares.append(float(left @ left))
        ranks.append(int(np.linalg.matrix_rank(both)))
    df = ranks[1] - ranks[0]
    if df == 0:
        return None
    statistic = max(0.0, squares[0] - squares[1]) / df / error
    return LackOfFit(statistic, df, error_df, float(stats.f.sf(statistic, df, error_df)))


def assumed(left_out: list[str], fit: LackOfFit | None) -> str:
    """What main effects take for granted on a grid that cannot tell all interactions, or nothing.

    Args:
        left_out: the interactions, as they are to be shown.
    """
    if not left_out:
        return ""
    told = (
        f"the grid cannot tell {', '.join(left_out)}: combinations lack runs. Main effects then "
        "take these interactions to be zero"
    )
    if fit is None:
        return f"{told}, which these runs cannot test"
    p = "< 0.001" if fit.p < 0.001 else f"= {fit.p:.2g}"
    against = fit.p <= 0.05
    return (
        f"{told}; the cells {'contradict that' if against else 'do not contradict that'} (lack of "
        f"fit: F = {fit.statistic:.2f} on {fit.df} and {fit.error_df} degrees of freedom, p {p})"
        + (": read the table's cells, not the effects" if against else ", which does not prove it")
    )
