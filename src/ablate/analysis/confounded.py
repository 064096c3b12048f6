"""Settings in which a table's cells differ although neither rows nor columns say so."""

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from ablate.analysis import arms
from ablate.analysis.cells import spelled_out
from ablate.config.matching import SCALED

#: levels that are told one by one
LEVELS_TOLD = 4
_MATCH = "config.match"


def confounded(
    frame: pd.DataFrame,
    factors: Sequence[str],
    among: Sequence[str] | None = None,
    known: Collection[str] = (),
) -> list[str]:
    """A line per setting that changes from cell to cell beside the factors.

    A difference between two such cells may be that setting's. Left out are settings that only
    spell out a factor's level, what `match` scales where it is a factor, and seeds and machines.

    Args:
        frame: the runs of a table, with `row` and `col` or the factors themselves.
        factors: columns that make the cells.
        among: the only settings that can differ, where that is known.
        known: settings that are told elsewhere, such as tuned ones.

    Returns:
        Such as `training: default for collection=offline; online for collection=online`.
    """
    left = [c for c in arms.trial_settings(frame, among) if c not in known and c not in factors]
    left = [c for c in left if not _of_a_factor(frame, factors, c)]
    words = frame[list(dict.fromkeys([*factors, *left]))].apply(arms.texts)
    if factors:
        # a setting that changes within a cell is refused, or is what a curve runs along
        within = words.groupby(list(factors), sort=False)[left].nunique() > 1 if left else None
        left = [c for c in left if within is None or not within[c].any()]
    return [_line(words, factors, c) for c in arms.telling(frame, left)]


def _of_a_factor(frame: pd.DataFrame, factors: Sequence[str], setting: str) -> bool:
    if _MATCH in factors and arms.short(setting) in SCALED:
        return True
    return any(spelled_out(frame, factor, setting) for factor in factors)


def _line(words: pd.DataFrame, factors: Sequence[str], setting: str) -> str:
    """The setting's values, each with the levels of a factor that it goes with, if there is one."""
    name = arms.short(setting).removesuffix(".name")
    for factor in factors:
        by = words.groupby(factor, sort=False)[setting]
        if words[factor].nunique() > 1 and by.nunique().max() == 1:
            levels: dict[Any, list[str]] = {}
            for level, value in by.first().items():
                levels.setdefault(value, []).append(str(level))
            told = [
                f"{value} for {arms.short(factor)}={_listed(levels[value])}"
                for value in sorted(levels, key=arms.rank)
            ]
            return f"{name}: {'; '.join(told)}"
    cells = words.drop_duplicates([*factors, setting])
    counts = cells[setting].value_counts()
    told = [
        f"{value} ({counts[value]} of {len(cells)} cells)"
        for value in sorted(counts.index, key=arms.rank)
    ]
    return f"{name}: {'; '.join(told)}"


def _listed(levels: list[str]) -> str:
    levels = sorted(levels, key=arms.rank)
    more = len(levels) - LEVELS_TOLD
    return ", ".join(levels[:LEVELS_TOLD]) + (f" and {more} more" if more > 0 else "")
