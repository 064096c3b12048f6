"""From runs to arms: which column is meant, which runs are left, what a cell may not mix."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablate.analysis.cells import NOT_VARIED
from ablate.errors import ConfigError, DataError
from ablate.results.rows import FACTORS

#: settings in which compared runs must agree, because they decide what a value means
JUDGED_BY = (
    "config.judge.",
    "config.evaluation.",
    "config.dataset.name",
    "config.dataset.world",
    "config.dataset.path",
    "config.dataset.ood_path",
    "stage.reward_model/judge",
)
#: settings that such a comparison may differ in: names of levels say nothing by themselves
_ONLY_NAMES = ("config.judge.name", "config.evaluation.name")


def column_of(frame: pd.DataFrame, word: str) -> str:
    """The column that a word means: a factor, `status`, or a setting with or without `config.`.

    Raises:
        ConfigError: no such column; the closest are named.
    """
    for name in (word, f"config.{word}", f"config.{word}.name", f"config.{word}.value"):
        if name in frame.columns:
            return name
    known = [*FACTORS] + [c.removeprefix("config.") for c in frame if c.startswith("config.")]
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ConfigError(
        f"no run has a factor or setting '{word}'.{hint} "
        f"Factors: {', '.join(FACTORS)}; every setting by its path, such as objective.beta"
    )


def keep(frame: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The runs that fulfil every `setting=value` (or `setting=value,value`).

    Raises:
        ConfigError: a condition of another form, or one that no run fulfils.
    """
    for condition in conditions:
        word, equals, values = condition.partition("=")
        if not equals or not values:
            raise ConfigError(f"'{condition}' is no condition: write setting=value")
        if frame.empty:
            return frame
        column = column_of(frame, word)
        words = texts(frame[column])
        wanted = values.split(",")
        missing = sorted(set(wanted) - set(words))
        if missing:
            there = ", ".join(sorted(set(words), key=rank))
            raise ConfigError(f"no run has {word}={missing[0]}; there are: {there}")
        frame = frame[words.isin(wanted)]
    return frame


def keep_known(frame: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """As `keep`, for runs that are not there: none of them may fulfil a condition."""
    for condition in conditions:
        if frame.empty:
            return frame
        word, _, values = condition.partition("=")
        frame = frame[texts(frame[column_of(frame, word)]).isin(values.split(","))]
    return frame


def plain(value: Any) -> str:
    """A setting's value as a person types it: 2.0 and 2 are both `2`, null where there is none."""
    if value is None or (isinstance(value, float) and value != value):
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def rank(word: str) -> tuple[bool, float, str]:
    """A key to sort by: numbers by size, then words."""
    try:
        return False, float(word), word
    except ValueError:
        return True, 0.0, word


def texts(column: pd.Series) -> pd.Series:
    """`plain` of every value; each distinct value is looked at once, of which there are few."""
    try:
        codes, known = pd.factorize(column, use_na_sentinel=False)
    except TypeError:
        # lists
        return column.map(plain)
    words = np.array([plain(value) for value in known], dtype=object)
    return pd.Series(words[codes], index=column.index, dtype=object)


def varied(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Those of the columns in which runs differ."""
    return [column for column in columns if texts(frame[column]).nunique() > 1]


def short(column: str) -> str:
    """A column's name without `config.`."""
    return column.removeprefix("config.")


def check_comparable(frame: pd.DataFrame, group: str) -> None:
    """Refuses runs that were judged or evaluated differently.

    Args:
        group: what the runs are, for the message.

    Raises:
        DataError: names the settings that differ, with their values and the way out.
    """
    told, example = [], ""
    for column in frame.columns:
        if not column.startswith(JUDGED_BY) or column in _ONLY_NAMES:
            continue
        words = texts(frame[column])
        if words.nunique() > 1:
            values = sorted(set(words))
            shown = [value[:12] if column.startswith("stage.") else value for value in values]
            told.append(f"{short(column)}: {', '.join(shown)}")
            if column.startswith("config."):
                example = example or f"{short(column)}={values[0]}"
    if told:
        listed = "\n".join(f"  {line}" for line in told)
        way = f"choose one with --where {example}" if example else "compare fewer runs"
        if any(line.startswith("dataset.") for line in told):
            way += ", or put dataset into --cols"
        raise DataError(
            f"{group} were judged or evaluated in different ways, so their numbers cannot stand "
            f"side by side:\n{listed}\n{way}"
        )


@dataclass(frozen=True)
class Latest:
    """Runs with one per trial and seed, and what was left out for that."""

    frame: pd.DataFrame
    left_out: list[str]


def one_per_seed(frame: pd.DataFrame) -> Latest:
    """Keeps the newest of runs with equal settings and seed.

    They differ in what is no setting: ablate's own code, or a file's content.
    """
    columns = [c for c in frame if c.startswith("config.") and not c.startswith(NOT_VARIED)]
    columns += [c for c in ("config.seed.value", "config.seed.scope") if c in frame]
    words = {name: texts(frame[name]) for name in columns}
    key = pd.DataFrame({name: column for name, column in words.items() if column.nunique() > 1})
    order = frame["finished"].sort_values(kind="stable").index
    ordered = frame.loc[order, ["id"]]
    last = key.loc[order].duplicated(keep="last") if key.shape[1] else _all_but_last(order)
    kept = frame[~last.reindex(frame.index)]
    return Latest(kept, [str(identity)[:12] for identity in ordered[last]["id"]])


def _all_but_last(order: pd.Index) -> pd.Series:
    """True for all but the last: runs that differ in no setting at all."""
    return pd.Series([True] * (len(order) - 1) + [False] * min(len(order), 1), index=order)


def trial_settings(frame: pd.DataFrame, among: Sequence[str] | None = None) -> list[str]:
    """Settings in which runs of one cell differ, other than the seed.

    `among`: the only ones that can differ, where that is known.
    """
    names = frame.columns if among is None else among
    settings = [c for c in names if c.startswith("config.") and not c.startswith(NOT_VARIED)]
    return varied(frame, settings)


def telling(frame: pd.DataFrame, settings: Sequence[str]) -> list[str]:
    """The settings without those that the name of a level among them stands for."""
    words = {name: texts(frame[name]) for name in settings}
    kept = []
    for name in settings:
        level = f"{'.'.join(name.split('.')[:2])}.name"
        implied = level in words and name != level
        if not implied or int(words[name].groupby(words[level]).nunique().max()) > 1:
            kept.append(name)
    return kept
