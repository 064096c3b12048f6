"""Records of runs: published once by rename, listed and found without reading any table."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.errors import StoreError
from ablate.store import crash, files
from ablate.store.layout import Layout
from ablate.store.secrets import scrub

#: raised when the meaning of a field of record.json changes
SCHEMA = 2
#: how the line of a record begins that tells how its run ended
_STATUS = '\n "status": "'


@dataclass(frozen=True)
class Record:
    """One published revision of a run."""

    path: Path
    data: dict[str, Any]

    @property
    def identity(self) -> str:
        return str(self.data["id"])

    @property
    def revision(self) -> int:
        return int(self.data["revision"])

    @property
    def short(self) -> str:
        return self.identity[:12]


@dataclass(frozen=True)
class Failure:
    """The last failed attempt at a run that has no record."""

    path: Path
    data: dict[str, Any]


def latest(layout: Layout, identity: str) -> Record | None:
    """The newest complete revision of a run, or None."""
    revisions = _revisions(layout.runs / identity)
    for number in reversed(revisions):
        path = layout.runs / identity / str(number)
        if (path / "record.json").exists():
            return Record(path, files.read_json(path / "record.json"))
    return None


def next_revision(layout: Layout, identity: str) -> int:
    """The number of the revision that would be published next, from 1."""
    return max(_revisions(layout.runs / identity), default=0) + 1


def publish(
    layout: Layout, identity: str, private: Path, data: dict[str, Any], again: bool = False
) -> Record:
    """Completes a private directory with record.json and manifest and renames it into the store.

    Args:
        again: adds a revision; else a run that another process published meanwhile stays the only
            one, and is returned.
    """
    while True:
        stored = None if again else latest(layout, identity)
        if stored is not None:
            return stored
        revision = next_revision(layout, identity)
        data = {**data, "schema": SCHEMA, "id": identity, "revision": revision}
        crash.point("record-before-json")
        files.write_json(private / "record.json", data)
        crash.point("record-json-written")
        files.write_manifest(private)
        crash.point("record-manifest-written")
        target = layout.runs / identity / str(revision)
        if files.publish(private, target):
            crash.point("record-published")
            return Record(target, data)


def records(layout: Layout) -> Iterator[Record]:
    """The newest revision of every run, in no particular order."""
    if not layout.runs.is_dir():
        return
    for folder in sorted(layout.runs.iterdir()):
        record = latest(layout, folder.name)
        if record is not None:
            yield record


def find(layout: Layout, prefix: str) -> Record:
    """The run whose identity begins with `prefix`.

    Raises:
        StoreError: no such run, or several (each is named).
    """
    folders = sorted(layout.runs.iterdir()) if layout.runs.is_dir() else []
    names = [folder.name for folder in folders if folder.name.startswith(prefix)]
    if not names:
        for failure in failures(layout):
            if failure.data["id"].startswith(prefix):
                raise StoreError(
                    f"run {failure.data['id'][:12]} ({failure.data['name']}) failed and has no "
                    f"record: {failure.data['reason']}\nits last attempt: {failure.path.parent}"
                )
        raise StoreError(f"no run in {layout.root} begins with '{prefix}' (see `ablate ls`)")
    if len(names) > 1:
        listed = ", ".join(name[:12] for name in names[:8])
        raise StoreError(f"'{prefix}' fits {len(names)} runs: {listed}. Give more characters")
    record = latest(layout, names[0])
    if record is None:
        raise StoreError(f"run {names[0][:12]} has no complete revision")
    return record


def new_attempt(layout: Layout, identity: str) -> Path:
    """A fresh directory attempts/<identity>/<n>; two processes never get the same one."""
    base = layout.attempts / identity
    base.mkdir(parents=True, exist_ok=True)
    number = max(_revisions(base), default=0)
    while True:
        number += 1
        try:
            (base / str(number)).mkdir()
        except FileExistsError:
            continue
        crash.point("attempt-made")
        return base / str(number)


def clear_attempts(layout: Layout, identity: str) -> None:
    """Removes attempts that tell nothing: empty folders, which killed processes leave."""
    base = layout.attempts / identity
    with contextlib.suppress(OSError):
        for folder in (*base.iterdir(), base):
            with contextlib.suppress(OSError):
                folder.rmdir()


def write_failure(attempt: Path, name: str, reason: str, stage: str | None) -> None:
    """Leaves the cause of a failed attempt, without secrets, where `ls` and `show` find it."""
    files.write_json(
        attempt / "failure.json",
        {"name": name, "reason": scrub(reason), "stage": stage, "time": time.time()},
    )
    crash.point("failure-written")


def failures(layout: Layout) -> Iterator[Failure]:
    """The last failure of every run that has no record."""
    if not layout.attempts.is_dir():
        return
    for folder in sorted(layout.attempts.iterdir()):
        if has_record(layout, folder.name):
            continue
        failure = last_failure(layout, folder.name)
        if failure is not None:
            yield failure


def has_record(layout: Layout, identity: str) -> bool:
    """Whether any revision of a run is complete."""
    return any((layout.runs / identity).glob("*/record.json"))


def last_failure(layout: Layout, identity: str) -> Failure | None:
    """The last failed attempt at a run, or None."""
    folder = layout.attempts / identity
    for number in reversed(_revisions(folder)):
        path = folder / str(number) / "failure.json"
        if path.exists():
            return Failure(path, {"id": identity, **files.read_json(path)})
    return None


def status(layout: Layout, identity: str) -> str | None:
    """done or diverged, of the newest revision; None without a record. Reads as little as it can.

    Records are written with sorted keys and one key per line, so the line is found without
    parsing the whole (thousands of them within a second).
    """
    folder = layout.runs / identity
    for number in reversed(_revisions(folder)):
        path = folder / str(number) / "record.json"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        _, found, rest = text.rpartition(_STATUS)
        return rest.partition('"')[0] if found else str(files.read_json(path)["status"])
    return None


def flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a record's nested plain data, each with its dotted path."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _revisions(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isdigit())
