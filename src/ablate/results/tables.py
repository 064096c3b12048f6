"""Tables of many runs by column: from a compacted copy where it holds them, else from the records.

DuckDB reads the Parquet files; a file outside a compacted copy is compared with its checksum first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablate.errors import StoreError
from ablate.results.compact import opened, quoted
from ablate.results.rows import verify
from ablate.store import files
from ablate.store.layout import Layout

EVAL = "eval.parquet"
PAIRS = "pairs.parquet"
TRAIN = "train.parquet"
CURVE = "curve.parquet"
TABLES = (EVAL, PAIRS, TRAIN, CURVE)
_IN_ORDER = "ORDER BY known._place, t.file_row_number"


@dataclass(frozen=True)
class RunTable:
    """One table of some runs of one store, read column by column.

    Rows keep their order within a run; runs come in the order of `ids`.

    files: (file, the runs that are read from it); `own` marks files of a single run, whose rows
        carry no id.
    """

    name: str
    ids: tuple[str, ...]
    files: tuple[tuple[str, tuple[str, ...]], ...]
    split: str | None
    own: bool

    @cached_property
    def schema(self) -> tuple[str, ...]:
        """The columns that any of the runs has."""
        import pyarrow.parquet as pq

        found: dict[str, None] = {}
        for path, _ in self.files:
            found |= dict.fromkeys(pq.read_schema(path).names)
        return tuple(name for name in found if name != "id")

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """`id` and some columns (all by default) of every row."""
        wanted = list(self.schema if columns is None else columns)
        if not self.files:
            return pd.DataFrame(columns=["id", *wanted])
        return self._query(["known.id AS id", *self._named(wanted)], _IN_ORDER)

    def column(self, name: str) -> NDArray[Any]:
        """The values of one column of every row."""
        return self._query(self._named([name]), _IN_ORDER)[name].to_numpy()

    def counts(self) -> NDArray[np.int64]:
        """int64[runs]: how many rows each run has."""
        result = np.zeros(len(self.ids), np.int64)
        if self.files:
            found = self._query(["known._place AS place", "count(*) AS rows"], "GROUP BY place")
            result[found["place"].to_numpy()] = found["rows"].to_numpy()
        return result

    def _named(self, columns: Sequence[str]) -> list[str]:
        lacking = [name for name in columns if name not in self.schema]
        if lacking:
            raise KeyError(lacking[0])
        return [f't."{name}"' for name in columns]

    def _query(self, selected: list[str], last: str) -> pd.DataFrame:
        import duckdb

        listed = "[" + ", ".join(quoted(path) for path, _ in self.files) + "]"
        known = pd.DataFrame({"id": list(self.ids), "_place": np.arange(len(self.ids))})
        where = "" if self.split is None or "split" not in self.schema else "WHERE t.split = ?"
        with duckdb.connect() as base:
            base.register("known", known)
            key = "t.id"
            if self.own:
                owners = [(path, runs[0]) for path, runs in self.files]
                base.register("owners", pd.DataFrame(owners, columns=["filename", "owner"]))
                key = "owners.owner"
            joined = "JOIN owners ON owners.filename = t.filename" if self.own else ""
            query = (
                f"SELECT {', '.join(selected)} "
                f"FROM read_parquet({listed}, union_by_name = true, filename = true, "
                f"file_row_number = true) t {joined} JOIN known ON known.id = {key} {where} "
                f"{last}"
            )
            given = [self.split] if where else []
            return base.sql(query, params=given).to_arrow_table().to_pandas()


def run_tables(frame: pd.DataFrame, name: str, split: str | None = None) -> list[RunTable]:
    """A table of the runs of a frame from `load`; runs that left none are in none of the parts.

    Args:
        frame: with the columns id and path; a run that is there twice is read once.
        split: only rows of this split.

    Raises:
        StoreError: a damaged table, by name.
    """
    parts: list[RunTable] = []
    roots: dict[Path, list[tuple[str, Path]]] = {}
    # a run that stands for several arms of a study is in the frame several times
    for identity, path in dict(zip(frame["id"], frame["path"], strict=True)).items():
        roots.setdefault(Path(path).parents[2], []).append((str(identity), Path(path)))
    for root, runs in roots.items():
        layout = Layout(root)
        held = opened(layout)
        inside, outside = [], []
        for identity, path in runs:
            if held is not None and held.holds(layout, identity):
                if name in held.tables:
                    inside.append(identity)
            # not every run leaves every table; what its manifest names must be there
            elif name in files.read_json(path / files.MANIFEST):
                verify(path, name)
                outside.append((str(path / name), (identity,)))
        if inside:
            assert held is not None
            source = str(held.folder / name)
            if not Path(source).is_file():
                raise StoreError(f"{source} is missing: run `ablate compact` again")
            parts.append(RunTable(name, tuple(inside), ((source, tuple(inside)),), split, False))
        if outside:
            ids = tuple(runs[0] for _, runs in outside)
            parts.append(RunTable(name, ids, tuple(outside), split, True))
    return parts


def read_tables(
    frame: pd.DataFrame, name: str, columns: Sequence[str] | None = None, split: str | None = None
) -> pd.DataFrame:
    """A row per run and row of its table: `id` last, in the order of the runs.

    Args:
        columns: those to read, of which each store must have all; None reads all.
    """
    parts = [part.frame(columns) for part in run_tables(frame, name, split)]
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame(columns=["id", *(columns or [])])
    whole = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    if len(parts) > 1:
        place = {identity: number for number, identity in enumerate(frame["id"])}
        whole = whole.sort_values("id", key=lambda ids: ids.map(place), kind="stable")
        whole = whole.reset_index(drop=True)
    return whole[[*(name for name in whole.columns if name != "id"), "id"]]


class Columns:
    """Columns of one table of many runs, each read when it is first asked for."""

    def __init__(self, part: RunTable) -> None:
        self.part = part
        counts = part.counts()
        ends = np.cumsum(counts)
        self._slices = {
            identity: slice(int(end - count), int(end))
            for identity, end, count in zip(part.ids, ends, counts, strict=True)
        }
        self._values: dict[str, NDArray[Any]] = {}

    def count(self, identity: str) -> int:
        """Rows of a run."""
        rows = self._slices[identity]
        return int(rows.stop - rows.start)

    def column(self, name: str, identity: str) -> NDArray[Any]:
        """One run's values of a column.

        Raises:
            KeyError: neither this run nor any other has it.
        """
        if name not in self.part.schema:
            raise KeyError(name)
        if name not in self._values:
            self._values[name] = self.part.column(name)
        return self._values[name][self._slices[identity]]
