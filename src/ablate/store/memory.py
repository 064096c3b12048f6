"""A small memory on disk for values that are costly to compute and safe to lose."""

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path

from ablate.store.files import write_json

#: computed by a process that may not write
_UNWRITTEN: dict[tuple[Path, str], str] = {}


def remembered(path: Path, key: str, compute: Callable[[], str], *, keep: bool = True) -> str:
    """The value of `key` in the JSON file `path`, computed and added if it is not there.

    A file that cannot be read or written only costs the computation.

    Args:
        keep: whether the file may be written; else the process alone remembers.
    """
    memory: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        memory = _read(path, path.stat().st_mtime_ns)
    if key in memory:
        return memory[key]
    if not keep:
        if (path, key) not in _UNWRITTEN:
            _UNWRITTEN[path, key] = compute()
        return _UNWRITTEN[path, key]
    value = compute()
    with contextlib.suppress(OSError):
        write_json(path, {**memory, key: value})
    return value


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> dict[str, str]:
    """The content of a file as of its time stamp `changed`."""
    return dict(json.loads(path.read_text(encoding="utf-8")))
