"""Metrics computed after the fact, from the tables that runs left in the store."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablate.errors import DataError
from ablate.metrics import METRICS, PAIR_SPLITS, PAIRS, Metric
from ablate.metrics.registry import WHOLE_RUN, unknown
from ablate.results.tables import Columns, read_tables, run_tables

KEYS = ["split", "prompt_id", "sample"]
DEFAULT_SPLIT = "test"
#: column with the id of the run that a run is paired with
PARTNER = "partner"
#: runs whose tables are open together, so that many of them take little memory
RUNS_AT_ONCE = 1000


def splits_of(frame: pd.DataFrame) -> list[str]:
    """The splits on which runs were evaluated."""
    names = [c.split("/")[1] for c in frame if c.startswith("reward/") and c.count("/") == 1]
    return list(dict.fromkeys(names))


def available(frame: pd.DataFrame) -> list[str]:
    """Every `metric/split` (or metric of a whole run) that these runs can be asked for."""
    stored = [c for c in frame if c.count("/") == 1 and f"{c}/se" in frame]
    computed = [
        f"{name}/{split}"
        for name, metric in METRICS.items()
        if metric.compute is not None
        for split in (PAIR_SPLITS if metric.table == PAIRS else splits_of(frame))
    ]
    whole = [c for c in frame if c in WHOLE_RUN or c.startswith("reward.")]
    numbers = [c for c in whole if pd.api.types.is_numeric_dtype(frame[c])]
    return list(dict.fromkeys([*stored, *computed, *numbers]))


def resolve(frame: pd.DataFrame, word: str) -> str:
    """The `metric/split` that a word means; without a split it is test.

    Raises:
        DataError: no such metric; lists those that exist, the closest first.
    """
    known = available(frame)
    if word in known:
        return word
    if "/" not in word and f"{word}/{DEFAULT_SPLIT}" in known:
        return f"{word}/{DEFAULT_SPLIT}"
    raise unknown(word, known)


def measure(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The runs with `column`, its `/se` and its `/n`, computed where the record lacks them.

    Args:
        frame: runs as from `results.load`; for metrics against a baseline with `partner`, the id of
            the run that each is paired with, or None.
        column: `metric/split`.

    Runs whose tables lack what the metric needs have NaN, as long as any has a value.

    Raises:
        DataError: no run's tables hold what the metric needs; says what.
        StoreError: a damaged table.
    """
    if column in frame:
        return frame
    name, _, split = column.partition("/")
    metric = METRICS[name]
    values = np.full((len(frame), 3), np.nan)
    lacking: dict[str, str] = {}
    for start in range(0, len(frame), RUNS_AT_ONCE):
        part = frame.iloc[start : start + RUNS_AT_ONCE]
        values[start : start + len(part)] = _measured(metric, part, frame, split, lacking)
    if lacking and np.isnan(values[:, 0]).all():
        raise DataError(f"{name} {next(iter(lacking.values()))}")
    added = pd.DataFrame(
        {column: values[:, 0], f"{column}/se": values[:, 1], f"{column}/n": values[:, 2]},
        index=frame.index,
    )
    return pd.concat([frame, added], axis=1)


def _measured(
    metric: Metric,
    part: pd.DataFrame,
    frame: pd.DataFrame,
    split: str,
    lacking: dict[str, str],
) -> np.ndarray:
    """float[n, 3]: value, standard error and count of some runs; NaN where it cannot be told.

    `lacking` is told what each such run did not store.
    """
    partners = part[PARTNER].tolist() if metric.against else [None] * len(part)
    needed = pd.concat([part, frame[frame["id"].isin(set(partners) - set(part["id"]))]])
    tables = {
        identity: columns
        for columns in map(Columns, run_tables(needed, metric.table, split))
        for identity in columns.part.ids
        if columns.count(identity)
    }
    result = np.full((len(part), 3), np.nan)
    for place, (identity, other) in enumerate(zip(part["id"], partners, strict=True)):
        if metric.against and other is None:
            continue
        short = identity[:12]
        if identity not in tables or (metric.against and other not in tables):
            lacking[identity] = (
                f"needs the {split} rows of {metric.table} (for pairs: log-probs of labelled pairs "
                f"under policy and reference), and {short} did not store them, or this copy leaves "
                "them out"
            )
            continue
        assert metric.compute is not None
        try:
            table = RunColumns(tables[identity], identity)
            if metric.against and other is not None:
                table = PairedColumns(tables[identity], identity, tables[other], other)
            found = metric.compute(table)
        except KeyError as error:
            lacking[identity] = (
                f"needs the column {error} of {metric.table}, which run {short} did not store"
            )
            continue
        result[place] = (found.mean, found.se, float(found.n))
    return result


class RunColumns(Mapping[str, NDArray[Any]]):
    """The columns of one run's table, each read when it is first asked for."""

    def __init__(self, columns: Columns, identity: str) -> None:
        self._columns, self._identity = columns, identity

    def __getitem__(self, name: str) -> NDArray[Any]:
        values = self._columns.column(name, self._identity)
        # a column that only other runs of the table have
        if len(values) and pd.isna(values).all():
            raise KeyError(name)
        return values

    def __iter__(self) -> Iterator[str]:
        for name in self._columns.part.schema:
            with contextlib.suppress(KeyError):
                self[name]
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)


class PairedColumns(RunColumns):
    """One run's columns beside those of the run it is paired with, as `other_<column>`."""

    def __init__(self, columns: Columns, identity: str, others: Columns, other: str) -> None:
        super().__init__(columns, identity)
        self._other = RunColumns(others, other)
        places = []
        for table in (RunColumns(columns, identity), self._other):
            keys = pd.DataFrame({name: table[name] for name in KEYS if name in table})
            places.append(keys.assign(_row=np.arange(len(keys))))
        both = places[0].merge(
            places[1], on=[c for c in places[0] if c != "_row"], validate="one_to_one"
        )
        if both.empty:
            raise DataError(f"runs {identity[:12]} and {other[:12]} have no prompt in common")
        self._rows = both["_row_x"].to_numpy(), both["_row_y"].to_numpy()

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name.startswith("other_"):
            return self._other[name.removeprefix("other_")][self._rows[1]]
        return super().__getitem__(name)[self._rows[0]]

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        yield from (f"other_{name}" for name in self._other if name not in KEYS)


def answer_values(frame: pd.DataFrame, split: str = DEFAULT_SPLIT) -> pd.DataFrame:
    """A row per answer of a split with id, prompt_id and value (judge score), all runs together.

    Raises:
        StoreError: a damaged table, by name.
    """
    rows = read_tables(frame, "eval.parquet", ["prompt_id", "judge_score"], split)
    return pd.DataFrame(
        {
            "id": rows["id"],
            "prompt_id": rows["prompt_id"],
            "value": rows["judge_score"].astype(float),
        }
    )
