"""A compacted copy of a store's records and tables: few large files in place of many small ones.

`compact/<n>/` holds runs.parquet (the rows of `load`), records.parquet (each record as JSON) and
one file for each table, its rows sorted by run. It is an index and never the only truth, unless it
was written elsewhere to be handed on (`standalone`).
"""

import json
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.errors import StoreError
from ablate.results.frames import read_frame, write_frame
from ablate.results.migrate import migrated
from ablate.results.rows import checked, row, verify
from ablate.store import files, records
from ablate.store.layout import Layout
from ablate.store.records import Record

RUNS = "runs.parquet"
RECORDS = "records.parquet"
ABOUT = "about.json"
#: raised when the form of these files changes; another form is as good as none
FORM = 1
#: columns that are compared with each other: rounded, they could tie where they did not
COMPARED = ("judge_score", "baseline_score", "utility_", "baseline_utility_")


@dataclass(frozen=True)
class Compact:
    """An opened compacted copy.

    `frame` has the index id; `touched` is the time of change of the run's folder (ns) when it was
    read, so that a newer revision is noticed.
    """

    folder: Path
    frame: pd.DataFrame
    touched: dict[str, int]
    standalone: bool
    tables: frozenset[str]

    def holds(self, layout: Layout, identity: str) -> bool:
        """Whether its row of a run is what the store would say."""
        if identity not in self.touched:
            return False
        try:
            return (layout.runs / identity).stat().st_mtime_ns == self.touched[identity]
        except FileNotFoundError:
            return self.standalone

    def record(self, identity: str) -> Record:
        """The whole record of a run."""
        found = _records(self.folder / RECORDS)[identity]
        return Record(Path(str(self.frame.at[identity, "path"])), json.loads(found))


def opened(layout: Layout) -> Compact | None:
    """The newest compacted copy of a store, or None.

    Raises:
        StoreError: it is damaged.
    """
    numbers = _numbers(layout)
    if not numbers:
        return None
    folder = layout.compact / str(numbers[-1])
    try:
        stamp = (folder / files.MANIFEST).stat().st_mtime_ns
    except FileNotFoundError as error:
        raise StoreError(f"{folder} has no manifest: remove it, or run `ablate compact`") from error
    return _open(folder, str(layout.root), stamp)


@lru_cache(maxsize=4)
def _open(folder: Path, root: str, stamp: int) -> Compact | None:
    about = files.read_json(folder / ABOUT)
    if about["form"] != FORM:
        return None
    verify(folder, RUNS)
    frame = read_frame(folder / RUNS)
    touched = dict(zip(frame["id"], frame.pop("_touched"), strict=True))
    frame["path"] = [str(Path(root) / part) for part in frame["path"]]
    frame.index = pd.Index(frame["id"], name=None)
    return Compact(folder, frame.copy(), touched, about["standalone"], frozenset(about["tables"]))


@lru_cache(maxsize=2)
def _records(path: Path) -> dict[str, str]:
    table = read_frame(path)
    return dict(zip(table["id"], table["record"], strict=True))


def _numbers(layout: Layout) -> list[int]:
    if not layout.compact.is_dir():
        return []
    return sorted(int(path.name) for path in layout.compact.iterdir() if path.name.isdigit())


@dataclass
class Compaction:
    """What was compacted, and what could not be."""

    runs: int
    bytes: int
    folder: Path
    #: (identity, reason)
    damaged: list[tuple[str, str]]


def compact(
    layout: Layout,
    tables: Iterable[str],
    *,
    target: Layout | None = None,
    ids: Iterable[str] | None = None,
    whole: Collection[str] | None = None,
    splits: Collection[str] | None = None,
    single: bool = False,
) -> Compaction:
    """Writes a compacted copy of all whole runs, beside the store or, standalone, in `target`.

    Args:
        tables: the tables to take along, such as eval.parquet.
        target: another folder; it then needs nothing of the original.
        ids: the runs of a standalone copy; None takes all.
        whole: the runs whose tables are taken along; None: of all. Their records always are.
        splits: rows of these splits alone, in tables that tell splits apart; None: of all.
        single: numbers of the tables in single precision, except those whose order counts.

    Raises:
        StoreError: nothing to compact, or a folder that cannot be written.
    """
    before = opened(layout)
    names = _identities(layout, before) if ids is None else list(dict.fromkeys(ids))
    rows: list[dict[str, Any]] = []
    texts: list[str] = []
    kept: list[str] = []
    sources: dict[str, list[str]] = {name: [] for name in tables}
    damaged = []
    for identity in names:
        folder = layout.runs / identity
        try:
            touched = folder.stat().st_mtime_ns if folder.is_dir() else 0
            record = records.latest(layout, identity)
            if record is None:
                if before is not None and before.holds(layout, identity):
                    kept.append(identity)
                continue
            record = checked(record)
            told = record if target is None else replace(record, data=_handed_on(record.data))
            line = row(told)
            held = files.read_json(record.path / files.MANIFEST)
            for name in sources:
                if name in held:
                    verify(record.path, name)
        except (StoreError, KeyError, TypeError, AttributeError) as error:
            damaged.append((identity, str(error)))
            continue
        for name in sources:
            if name in held and (whole is None or identity in whole):
                sources[name].append(str(record.path / name))
        line["path"] = f"runs/{identity}/{record.revision}"
        rows.append({**line, "_touched": touched if target is None else 0})
        texts.append(json.dumps(told.data, ensure_ascii=False))
    if not rows and not kept:
        raise StoreError(f"{layout.root.resolve()} has no finished run to compact")
    frame = pd.DataFrame(rows)
    stored = pd.DataFrame({"id": [line["id"] for line in rows], "record": texts})
    if kept:
        assert before is not None
        old = before.frame.loc[kept].assign(_touched=0)
        old["path"] = [f"runs/{i}/{r}" for i, r in zip(old["id"], old["revision"], strict=True)]
        frame = pd.concat([frame, old], ignore_index=True)
        more = _records(before.folder / RECORDS)
        added = pd.DataFrame({"id": kept, "record": [more[identity] for identity in kept]})
        stored = pd.concat([stored, added], ignore_index=True)
    order = frame["finished"].argsort(kind="stable")
    to = target or layout
    with files.scratch(to.scratch, "compact") as private:
        write_frame(frame.iloc[order].reset_index(drop=True), private / RUNS)
        write_frame(stored, private / RECORDS)
        written = []
        old_tables = [name for name in kept if whole is None or name in whole]
        for name, paths in sources.items():
            older = before.folder / name if before is not None and name in before.tables else None
            parts = _sources(paths, older if old_tables else None, old_tables)
            if parts:
                _join(parts, private / name, splits, single)
                written.append(name)
        files.write_json(
            private / ABOUT,
            {
                "form": FORM,
                "standalone": target is not None or bool(before and before.standalone),
                "tables": written,
            },
        )
        files.write_manifest(private)
        size = sum(path.stat().st_size for path in private.iterdir())
        existing = _numbers(to)
        folder = to.compact / str((existing[-1] if existing else 0) + 1)
        if not files.publish(private, folder):
            raise StoreError(f"{folder} was written by another process just now: run it again")
    for number in existing:
        shutil.rmtree(to.compact / str(number), ignore_errors=True)
    return Compaction(len(frame), size, folder, damaged)


def handed_on(layout: Layout) -> list[Record]:
    """Records that a standalone copy holds, without the folders of their runs.

    Raises:
        StoreError: the copy is damaged.
    """
    held = opened(layout)
    if held is None or not held.standalone:
        return []
    return [held.record(i) for i in held.touched if not (layout.runs / i).is_dir()]


def _identities(layout: Layout, before: Compact | None) -> list[str]:
    found = sorted(path.name for path in layout.runs.iterdir()) if layout.runs.is_dir() else []
    if before is not None and before.standalone:
        found += [name for name in before.touched if name not in set(found)]
    return found


def _handed_on(data: dict[str, Any]) -> dict[str, Any]:
    """A record without what names a machine: host, kernel, ids of jobs, the results folder."""
    machine = {**data["provenance"], "host": None, "scheduler": None}
    if "system" in machine:
        # without the kernel's release
        machine["system"] = str(machine["system"]).partition(" ")[0]
    config = {**data["config"], "results_dir": "results"}
    return {**data, "config": config, "provenance": machine}


def _sources(paths: list[str], older: Path | None, kept: list[str]) -> list[str]:
    """Queries for the rows of one table with a column `id`: of single runs, of an older copy."""
    parts = []
    if paths:
        listed = "[" + ", ".join(quoted(path) for path in paths) + "]"
        parts.append(
            "SELECT string_split(filename, '/')[-3] AS id, * EXCLUDE (filename) "
            f"FROM read_parquet({listed}, union_by_name = true, filename = true)"
        )
    if older is not None and kept:
        names = ", ".join(quoted(identity) for identity in kept)
        parts.append(f"SELECT * FROM read_parquet({quoted(str(older))}) WHERE id IN ({names})")
    return parts


def _join(parts: list[str], target: Path, splits: Collection[str] | None, single: bool) -> None:
    """One table of many runs as one file, a column `id` in front."""
    import duckdb

    query = " UNION ALL BY NAME ".join(parts)
    with duckdb.connect() as base:
        base.execute("SET preserve_insertion_order = true")
        columns = {name: kind for name, kind, *_ in base.execute(f"DESCRIBE {query}").fetchall()}
        cast = ", ".join(
            f'"{name}"::FLOAT AS "{name}"'
            for name, kind in columns.items()
            if single and kind == "DOUBLE" and not name.startswith(COMPARED)
        )
        if cast:
            query = f"SELECT * REPLACE ({cast}) FROM ({query})"
        if splits is not None and "split" in columns:
            listed = ", ".join(quoted(name) for name in splits)
            query = f"SELECT * FROM ({query}) WHERE split IN ({listed})"
        base.execute(
            f"COPY ({query}) TO {quoted(str(target))} "
            "(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880, "
            f"COMPRESSION_LEVEL {19 if single else 3})"
        )


def quoted(text: str) -> str:
    """A text as DuckDB's SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def read_record(layout: Layout, identity: str) -> Record | None:
    """The newest record of a run, from its folder or from a compacted copy."""
    found = records.latest(layout, identity)
    if found is not None:
        return migrated(found)
    held = opened(layout)
    return None if held is None or not held.holds(layout, identity) else held.record(identity)
