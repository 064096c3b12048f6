"""Arm means and their differences from run means blocked by seed, the variance pooled over arms.

Shapes: n runs, A arms, B blocks; `...` any leading dimensions of values (many tables at once).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
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
    design = _Design(arms, blocks)
    coefficients = design.solve(values)
    residual = values - design.fitted(coefficients)
    squares = (residual**2).sum(axis=-1)
    size = np.abs(values).max(axis=-1)
    df = values.shape[-1] - design.rank
    if df > 0:
        variance = squares / df
        variance = np.where(variance <= (ROUNDING * size) ** 2, np.nan, variance)
    else:
        variance = np.full(squares.shape, np.nan)
    count = len(design.arms)
    return Fit(
        design.arms,
        coefficients[..., :count],
        design.inverse[:count, :count],
        variance,
        df,
        design.inverse @ design.normal,
    )


@lru_cache(maxsize=8)
def _solved(shape: tuple[int, int], runs: bytes) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Normal equations of a design, their pseudo-inverse and rank.

    All metrics of a table mostly have one design, and with hundreds of seeds this is most of a fit.

    Args:
        runs: float64[arms, blocks], how many runs each cell has.
    """
    shared = np.frombuffer(runs).reshape(shape)
    normal = np.block(
        [[np.diag(shared.sum(axis=1)), shared], [shared.T, np.diag(shared.sum(axis=0))]]
    )
    values, vectors = np.linalg.eigh(normal)
    kept = values > values[-1] * len(normal) * np.finfo(float).eps
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    for array in (normal, inverse):
        array.setflags(write=False)
    return normal, inverse, int(kept.sum())


class _Design:
    """The two-way design as counts: its n × (A + B) matrix of zeros and ones is never made.

    `normal` is float[A + B, A + B], the matrix of the normal equations; `inverse` its
    pseudo-inverse.
    """

    def __init__(self, arms: Sequence[Hashable], blocks: Sequence[Hashable]) -> None:
        arm_at = {arm: index for index, arm in enumerate(dict.fromkeys(arms))}
        block_at = {block: index for index, block in enumerate(dict.fromkeys(blocks))}
        self.arms = tuple(arm_at)
        self._arm = np.array([arm_at[arm] for arm in arms])
        self._block = np.array([block_at[block] for block in blocks])
        if len(self._arm) != len(self._block):
            raise ValueError("arms and blocks differ in length")
        shared = np.zeros((len(arm_at), len(block_at)))
        np.add.at(shared, (self._arm, self._block), 1)
        self.normal, self.inverse, self.rank = _solved(shared.shape, shared.tobytes())

    def solve(self, values: NDArray[Any]) -> NDArray[Any]:
        """Least-squares coefficients float[..., A + B] of values float[..., n]."""
        sums = np.zeros((*values.shape[:-1], len(self.normal)))
        # runs first, in views of both
        turned, given = np.moveaxis(sums, -1, 0), np.moveaxis(values, -1, 0)
        np.add.at(turned, self._arm, given)
        np.add.at(turned, len(self.arms) + self._block, given)
        return np.asarray(sums @ self.inverse)

    def fitted(self, coefficients: NDArray[Any]) -> NDArray[Any]:
        """float[..., n]: what arm and block say of each run."""
        of_arms = coefficients[..., self._arm]
        return np.asarray(of_arms + coefficients[..., len(self.arms) + self._block])


def residuals(
    arms: Sequence[Hashable], blocks: Sequence[Hashable], values: NDArray[Any]
) -> NDArray[Any]:
    """float[n, ...]: what arm and block do not explain of each run.

    Args:
        values: float[n, ...], runs first.
    """
    design = _Design(arms, blocks)
    flat = np.moveaxis(values, 0, -1)
    return np.asarray(values - np.moveaxis(design.fitted(design.solve(flat)), -1, 0))
