"""The runs that a table reports: one trial of each cell, chosen where there are several."""

from dataclasses import replace

import pandas as pd

from ablate.analysis import arms
from ablate.analysis.measure import measure, resolve
from ablate.analysis.table import Key, Question
from ablate.analysis.tuning import Tuned, choose
from ablate.errors import ConfigError, DataError
from ablate.metrics import describe
from ablate.results.sweeps import PHASE, TUNE

#: of fewer values of a setting, one is at an end by necessity
TOLD_FROM = 3
NOT_YET = "trials have finished, and no run yet that reports the best of them"


def without_trials(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs without those that a sweep made only to choose by.

    Raises:
        DataError: no others have finished.
    """
    kept = frame[frame[PHASE] != TUNE] if PHASE in frame else frame
    if kept.empty:
        raise DataError(NOT_YET)
    return kept


def one_trial(
    frame: pd.DataFrame,
    rows: list[str],
    cols: list[str],
    question: Question,
    differing: list[str],
) -> tuple[pd.DataFrame, dict[tuple[Key, Key], Tuned]]:
    """Cells that hold one trial each, chosen where there are several and the question says how.

    Args:
        differing: the settings in which the runs differ.
    """
    parts, tuned = [], {}
    for cell, part in frame.groupby(["row", "col"], sort=False):
        mixed = arms.trial_settings(part, differing)
        phases = set(part[PHASE]) if PHASE in part else set()
        if phases == {TUNE}:
            # nothing is chosen yet: the runs that will report it are among those that lack
            continue
        if not mixed and len(phases) < 2:
            parts.append(part)
            continue
        name = "the cell " + title_of(rows, cols, *cell)
        apart = _of_arms(part, mixed) if len(phases) == 2 else []
        told = "; ".join(
            f"{arms.short(c)} ({', '.join(dict.fromkeys(part[c].map(arms.plain)))})"
            for c in arms.telling(part, apart or mixed)
        )
        if apart:
            raise ConfigError(
                f"{name} mixes arms of the sweep, each with a best trial of its own, that differ "
                f"in {told}. Add these to --rows or --cols, or choose with --where setting=value"
            )
        if question.choose_by is None:
            raise ConfigError(
                f"{name} mixes runs that differ in {told}. Add these to --rows or --cols, choose "
                "one with --where setting=value, or let valid choose with --choose reward/valid"
            )
        by = resolve(frame, question.choose_by)
        if not by.endswith("/valid"):
            raise ConfigError(f"--choose {question.choose_by}: trials are chosen on valid only")
        part = measure(part, by)
        trials = [
            " ".join(
                f"{arms.short(c)}={arms.plain(value)}" for c, value in zip(mixed, line, strict=True)
            )
            for line in part[mixed].itertuples(index=False)
        ]
        picked = choose(
            part.assign(trial=trials), by, better=describe(by).better or 1,
            reuse=question.reuse_seeds, name=name,
        )  # fmt: skip
        tuned[cell] = replace(picked, settings=tuple(mixed), edges=_edges(part, mixed, picked))
        parts.append(picked.frame)
    if not parts:
        raise DataError(NOT_YET)
    return pd.concat(parts).sort_index().copy(), tuned


def _edges(part: pd.DataFrame, mixed: list[str], picked: Tuned) -> dict[str, str]:
    """Settings whose chosen value is at an end of what was tried: the optimum may lie beyond."""
    found = {}
    for name in mixed:
        tried = part[name].dropna()
        if not pd.api.types.is_numeric_dtype(tried) or tried.dtype == bool:
            continue
        if len(tried) < len(part) or tried.nunique() < TOLD_FROM:
            continue
        low, value, high = part[name].min(), picked.frame[name].iloc[0], part[name].max()
        if low < high and value in (low, high):
            found[name] = "smallest" if value == low else "largest"
    return found


def _of_arms(part: pd.DataFrame, mixed: list[str]) -> list[str]:
    """Settings that tell arms of a tuned sweep apart: every arm that was tried reports its value.

    Of a tuned setting only the chosen values are reported.
    """
    made = part[part[PHASE] != TUNE]
    tried = part[part[PHASE] == TUNE]
    return [
        c
        for c in arms.trial_settings(made, mixed)
        if set(tried[c].map(arms.plain)) == set(made[c].map(arms.plain))
    ]


def title_of(rows: list[str], cols: list[str], row: Key, col: Key) -> str:
    names = [arms.short(name) for name in [*rows, *cols]]
    return " ".join(f"{n}={v}" for n, v in zip(names, [*row, *col], strict=True)) or "of all runs"
