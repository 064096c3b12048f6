"""Verdicts of judges on disk: lines of data, a file per writer, so that many may write at once.

A folder holds one judge's verdicts. Whoever has new ones appends them to a file that only he
writes, a line each, flushed at once: no lock, nothing to tear but a last line, which is then passed
over like any damaged one. Readers take all files; of two verdicts on one item the older file's
counts, so that all readers agree.
"""

import contextlib
import json
import math
import os
import secrets
import socket
import time
import zlib
from pathlib import Path

from ablate.errors import StoreError
from ablate.store import crash

#: a file that its writer has closed, and one that may still grow (or whose writer was killed)
CLOSED, OPEN = ".jsonl", ".open"
#: closed files are made one when there are more
MERGE_ABOVE = 32


class Verdicts:
    """The verdicts in a folder: numbers by the key of what was judged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handle: int | None = None
        self._path: Path | None = None

    def read(self) -> dict[str, float]:
        """All verdicts; damaged lines are passed over."""
        while True:
            known: dict[str, float] = {}
            try:
                for path in self._files(CLOSED, OPEN):
                    _read_into(known, path)
            except FileNotFoundError:
                continue  # merged into another file, or closed, since we looked
            return known

    def add(self, key: str, value: float) -> None:
        """Appends a verdict; it outlives this process from here on.

        Raises:
            StoreError: the folder cannot be written.
        """
        line = _line(key, value).encode()
        try:
            if self._handle is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._path = self.folder / f"{_name()}{OPEN}"
                self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            if os.write(self._handle, line) != len(line):
                raise OSError("the disk is full")
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be written: {error}") from error

    def close(self) -> None:
        """Flushes to disk what was added, and gives the file its final name."""
        if self._handle is None:
            return
        assert self._path is not None
        handle, self._handle = self._handle, None
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        crash.point("verdicts-before-rename")
        os.replace(self._path, self._path.with_suffix(CLOSED))
        crash.point("verdicts-after-rename")
        self._merge()

    def _files(self, *suffixes: str) -> list[Path]:
        """Oldest first: the names begin with the time."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.suffix in suffixes)

    def _merge(self) -> None:
        """Makes one file of the closed ones; done twice at once, it only leaves some twice."""
        paths = self._files(CLOSED)
        if len(paths) <= MERGE_ABOVE:
            return
        merged: dict[str, float] = {}
        # another process merges too, or the disk is full: then they stay several
        with contextlib.suppress(OSError):
            for path in paths:
                _read_into(merged, path)
            # dated as the oldest, whose verdicts stay the ones that count; a name of its own, since
            # two processes that merge at once may have seen different files
            name = _name(paths[0].name.partition("-")[0])
            target, partial = self.folder / f"{name}{CLOSED}", self.folder / f"{name}.partial"
            with open(partial, "w", encoding="utf-8") as file:
                for key, value in merged.items():
                    file.write(_line(key, value))
                file.flush()
                os.fsync(file.fileno())
            crash.point("verdicts-before-merge")
            os.replace(partial, target)
            crash.point("verdicts-after-merge")
            for path in paths:
                path.unlink(missing_ok=True)


def _name(date: str | None = None) -> str:
    date = date or f"{time.time_ns():020d}"
    return f"{date}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _line(key: str, value: float) -> str:
    return json.dumps({"key": key, "value": value, "sum": _sum(key, value)}) + "\n"


def _sum(key: str, value: float) -> str:
    return f"{zlib.crc32(f'{key} {value!r}'.encode()):08x}"


def _read_into(known: dict[str, float], path: Path) -> None:
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if entry["sum"] != _sum(key, value) or not math.isfinite(value):
                continue
        except (ValueError, TypeError, KeyError):
            continue
        known.setdefault(key, value)
