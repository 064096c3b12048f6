"""A small memory on disk for values that are costly to compute and safe to lose."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from ablate.store.files import write_json


def remembered(path: Path, key: str, compute: Callable[[], str]) -> str:
    """The value of `key` in the JSON file `path`, computed and added if it is not there.

    A file that cannot be read or written only costs the computation.
    """
    memory: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        memory = json.loads(path.read_text(encoding="utf-8"))
    if key not in memory:
        memory[key] = compute()
        with contextlib.suppress(OSError):
            write_json(path, memory)
    return memory[key]
