"""Metrics computed after the fact, from the tables that runs left in the store."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ablate.errors import DataError
from ablate.metrics import METRICS, PAIR_SPLITS, PAIRS, Metric, Table
from ablate.metrics.registry import WHOLE_RUN, unknown
from ablate.results.load import verify
from ablate.store.tables import read_table

KEYS = ["split", "prompt_id", "sample"]
DEFAULT_SPLIT = "test"


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


def measure(frame: pd.DataFrame, column: str, baseline: Mapping[str, str]) -> pd.DataFrame:
    """The runs with `column`, its `/se` and its `/n`, computed where the record lacks them.

    Args:
        frame: runs as from `results.load`.
        column: `metric/split`.
        baseline: id -> id of the run it is paired with, for metrics against a baseline.

    Raises:
        DataError: the runs' tables lack what the metric needs; says what.
        StoreError: a damaged table.
    """
    if column in frame:
        return frame
    name, _, split = column.partition("/")
    metric = METRICS[name]
    paths = dict(zip(frame["id"], frame["path"], strict=True))
    rows: list[tuple[float, float, float]] = []
    for identity, path in paths.items():
        other = baseline.get(identity)
        if metric.against and other is None:
            rows.append((np.nan, np.nan, np.nan))
            continue
        table = _table(metric, path, split, paths.get(other) if other else None)
        assert metric.compute is not None
        try:
            found = metric.compute(table)
        except KeyError as error:
            raise DataError(
                f"{name} needs the column {error} of {metric.table}, which run {identity[:12]} "
                "did not store"
            ) from None
        rows.append((found.mean, found.se, float(found.n)))
    values = np.array(rows, dtype=float).reshape(-1, 3)
    added = pd.DataFrame(
        {column: values[:, 0], f"{column}/se": values[:, 1], f"{column}/n": values[:, 2]},
        index=frame.index,
    )
    return pd.concat([frame, added], axis=1)


def _table(metric: Metric, path: str, split: str, other: str | None) -> Table:
    rows = _read(metric, path, split)
    if metric.against and other is not None:
        theirs = _read(metric, other, split)
        numbers = [c for c in theirs if c not in KEYS and c in rows]
        theirs = theirs[[*KEYS, *numbers]].rename(columns={c: f"other_{c}" for c in numbers})
        rows = rows.merge(theirs, on=KEYS, how="inner", validate="one_to_one")
        if rows.empty:
            raise DataError(f"{metric.name}: two of the runs have no {split} prompt in common")
    return {str(name): rows[name].to_numpy() for name in rows.columns}


def _read(metric: Metric, path: str, split: str) -> pd.DataFrame:
    folder = Path(path)
    if not (folder / metric.table).is_file():
        raise DataError(
            f"{metric.name} needs {metric.table} in a run's folder (for pairs: log-probs of "
            "labelled pairs under policy and reference), and "
            f"{folder.parent.name[:12]} did not store it"
        )
    verify(folder, metric.table)
    rows = read_table(folder / metric.table)
    return rows[rows["split"] == split]


def answer_values(frame: pd.DataFrame, split: str = DEFAULT_SPLIT) -> pd.DataFrame:
    """A row per answer of a split with id, prompt_id and value (judge score), all runs together.

    Raises:
        StoreError: a damaged table, by name.
    """
    column = "judge_score"
    parts = []
    for identity, path in zip(frame["id"], frame["path"], strict=True):
        verify(Path(path), "eval.parquet")
        rows = read_table(Path(path) / "eval.parquet", ["split", "prompt_id", column])
        rows = rows[rows["split"] == split]
        parts.append(
            pd.DataFrame(
                {
                    "id": identity,
                    "prompt_id": rows["prompt_id"],
                    "value": rows[column].astype(float),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
