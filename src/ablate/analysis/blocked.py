"""Arm means and their differences from run means blocked by seed, the variance pooled over arms.

Shapes: n runs, A arms, B blocks; `...` any leading dimensions of values (many tables at once).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: a residual spread below this share of the values' size is rounding, not a spread between seeds
ROUNDING = 1e-10


@dataclass(frozen=True)
class Fit:
    """Least squares of value = arm + block + error, which is the two-way arm × seed ANOVA.

    With every arm in every block the arm effects are plain means. With runs missing they are
    adjusted for the blocks that each arm lacks, and `df` counts what the runs at hand leave.
    """

    arms: tuple[Hashable, ...]
    #: float[..., A] coefficients; one of them alone means something only with `contrast`
    coefficients: NDArray[Any]
    #: float[A, A] covariance of the coefficients divided by the error variance
    unscaled: NDArray[Any]
    #: float[...] error variance of one run, pooled over arms; NaN where df is 0 or it is rounding
    variance: NDArray[Any]
    #: n minus the rank of the design
    df: int
    #: float[A + B, A + B] projection on the estimable directions
    estimable: NDArray[Any]

    @cached_property
    def _position(self) -> dict[Hashable, int]:
        return {arm: index for index, arm in enumerate(self.arms)}

    def contrast(self, weights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Estimates and standard errors of weighted sums of arm effects.

        Args:
            weights: float[C, A]; rows that sum to 0 compare arms.

        Returns:
            float[..., C] and float[..., C]; NaN where the runs cannot tell (no seeds in common).
        """
        padded = np.zeros((len(weights), len(self.estimable)))
        padded[:, : len(self.arms)] = weights
        known = np.abs(padded @ self.estimable - padded).max(axis=1) < 1e-8
        estimate = self.coefficients @ weights.T
        factor = np.sqrt(np.maximum(np.einsum("ca,ab,cb->c", weights, self.unscaled, weights), 0))
        se = np.sqrt(self.variance)[..., None] * factor
        return np.where(known, estimate, np.nan), np.where(known, se, np.nan)

    def pairs(self, pairs: Sequence[tuple[Hashable, Hashable]]) -> NDArray[Any]:
        """float[C, A] weights of the differences first minus second."""
        weights = np.zeros((len(pairs), len(self.arms)))
        for row, (first, second) in enumerate(pairs):
            weights[row, self._position[first]] += 1
            weights[row, self._position[second]] -= 1
        return weights


def fit_blocks(arms: Sequence[Hashable], blocks: Sequence[Hashable], values: NDArray[Any]) -> Fit:
    """Fits arm and block effects.

    Args:
        arms, blocks: [n], the arm and the block (seed) of each run.
        values: float[..., n], one per run.

    Raises:
        ValueError: no runs, or an undefined value.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.shape[-1] == 0:
        raise ValueError("no runs to compare")
    if not np.isfinite(values).all():
        raise ValueError("runs hold undefined values")
    arm_names, block_names = tuple(dict.fromkeys(arms)), tuple(dict.fromkeys(blocks))
    design = np.zeros((values.shape[-1], len(arm_names) + len(block_names)))
    arm_at = {arm: index for index, arm in enumerate(arm_names)}
    block_at = {block: len(arm_names) + index for index, block in enumerate(block_names)}
    for run, (arm, block) in enumerate(zip(arms, blocks, strict=True)):
        design[run, arm_at[arm]] = 1
        design[run, block_at[block]] = 1
    inverse = np.linalg.pinv(design)
    df = len(design) - int(np.linalg.matrix_rank(design))
    coefficients = values @ inverse.T
    residual = values - coefficients @ design.T
    squares = (residual**2).sum(axis=-1)
    size = np.abs(values).max(axis=-1)
    if df > 0:
        variance = squares / df
        variance = np.where(variance <= (ROUNDING * size) ** 2, np.nan, variance)
    else:
        variance = np.full(squares.shape, np.nan)
    count = len(arm_names)
    return Fit(
        arm_names,
        coefficients[..., :count],
        (inverse @ inverse.T)[:count, :count],
        variance,
        df,
        inverse @ design,
    )


def residuals(
    arms: Sequence[Hashable], blocks: Sequence[Hashable], values: NDArray[Any]
) -> NDArray[Any]:
    """float[n, ...]: what arm and block do not explain of each run.

    Args:
        values: float[n, ...], runs first.
    """
    arm_at = {arm: index for index, arm in enumerate(dict.fromkeys(arms))}
    block_at = {block: index for index, block in enumerate(dict.fromkeys(blocks))}
    design = np.zeros((len(values), len(arm_at) + len(block_at)))
    for run, (arm, block) in enumerate(zip(arms, blocks, strict=True)):
        design[run, arm_at[arm]] = 1
        design[run, len(arm_at) + block_at[block]] = 1
    return np.asarray(values - design @ (np.linalg.pinv(design) @ values))
