"""What stands in a table more than once: runs of two cells, and checkpoints of one policy."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

#: stored results by which two reports of one policy are known to be the same checkpoint
_RESULTS = ("reward", "kl", "length")


@dataclass(frozen=True)
class Repeats:
    """How runs are to be counted once.

    twins: arm -> the first arm of its fit that holds the same results, mostly itself.
    pooled: whether all cells are in one fit; else each column has its own.
    shared: arms of one fit that report different checkpoints of the same policies.
    """

    twins: dict[Any, Any]
    pooled: bool
    shared: list[tuple[Any, Any]]


def once(frame: pd.DataFrame, twins: dict[Any, Any]) -> pd.DataFrame:
    """The rows of arms that are their own first twin.

    Args:
        frame: with the column arm.
    """
    return frame[np.array([twins[arm] == arm for arm in frame["arm"]], dtype=bool)]


def repeats(frame: pd.DataFrame, baseline: dict[Any, Any], same_scale: bool) -> Repeats:
    """Finds what the cells of a table have in common.

    Cells with the same results are one sample. Cells with different checkpoints of the same
    policies are no independent runs: where they stand in different columns, and comparisons stay
    within a column, each column gets a fit of its own.

    Args:
        frame: runs with row, col, arm.
        baseline: arm -> the arm it is compared with.
        same_scale: whether the columns could share a fit.
    """
    results = _results(frame)
    twins = _twins(frame, results, by_column=False)
    several = _sharing(frame, twins)
    across = any(len({col for _, col in arms}) > 1 for arms in several)
    within = all(arm[1] == other[1] for arm, other in baseline.items())
    pooled = same_scale and not (across and within)
    if not pooled:
        twins = _twins(frame, results, by_column=True)
        several = _sharing(frame, twins)
    pairs = [
        (arms[0], other)
        for arms in several
        for other in arms[1:]
        if pooled or other[1] == arms[0][1]
    ]
    return Repeats(twins, pooled, list(dict.fromkeys(pairs)))


def _results(frame: pd.DataFrame) -> pd.Series:
    """What a run reports: its policy with its numbers, or itself where they are not known."""
    names = [c for c in frame if c.count("/") == 1 and c.split("/")[0] in _RESULTS]
    if "stage.policy" not in frame or not names:
        return frame["id"]
    keys: list[Hashable] = [
        (policy, *numbers) if isinstance(policy, str) else identity
        for identity, policy, *numbers in frame[["id", "stage.policy", *names]].itertuples(
            index=False, name=None
        )
    ]
    return pd.Series(keys, index=frame.index, dtype=object)


def _twins(frame: pd.DataFrame, results: pd.Series, by_column: bool) -> dict[Any, Any]:
    first: dict[Hashable, Any] = {}
    sets = results.groupby(frame["arm"], sort=False).agg(frozenset)
    return {
        arm: first.setdefault((arm[1] if by_column else None, held), arm)
        for arm, held in sets.items()
    }


def _sharing(frame: pd.DataFrame, twins: dict[Any, Any]) -> list[list[Any]]:
    """The groups of arms, twins counted once, that report the same policy."""
    if "stage.policy" not in frame:
        return []
    known = once(frame[frame["stage.policy"].notna()], twins)
    owners: dict[str, dict[Any, None]] = {}
    for policy, arm in zip(known["stage.policy"], known["arm"], strict=True):
        owners.setdefault(policy, {})[arm] = None
    return [list(arms) for arms in owners.values() if len(arms) > 1]
