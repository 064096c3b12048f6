"""Launches of one sweep: who may still read its frozen runs, and what an earlier launch fixed."""

import contextlib
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from os import getpid
from pathlib import Path
from typing import Any

from ablate.launch import scheduler
from ablate.launch.pools import pools
from ablate.store import claims
from ablate.store.files import read_json
from ablate.store.layout import Layout

ANALYSIS = "analysis."


@contextlib.contextmanager
def launching(layout: Layout, name: str) -> Iterator[None]:
    """Tells other launchers, while the block lasts, that this one hands a sweep to a scheduler.

    A local pool says so by `pools.at_work`.

    Raises:
        StoreError: the store cannot be written.
    """
    with claims.held(layout.claims / f"{_own(name)}{secrets.token_hex(4)}"):
        yield


def readers(layout: Layout, name: str) -> str | None:
    """Who may still read the frozen runs of a sweep, in words; None where nobody does.

    Jobs whose scheduler cannot be asked from here count as readers.
    """
    submitting = layout.claims.glob(f"launch-{name}@*")
    others = (path for path in submitting if not path.name.startswith(_own(name)))
    own = socket.gethostname(), getpid()
    if any(claims.is_held(path) for path in others) or any(
        (pool.host, pool.pid) != own for pool in pools(layout, name)
    ):
        return "another launcher works on them"
    noted = layout.sweeps / name / "slurm" / "jobs.json"
    if noted.exists():
        if not scheduler.available():
            return "they were given to SLURM, which cannot be asked from here"
        if set(read_json(noted).values()) & set(scheduler.queue()):
            return "SLURM jobs of the sweep are queued or running"
    return None


def _own(name: str) -> str:
    return f"launch-{name}@{socket.gethostname()}.{getpid()}@"


def differing(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """Dotted names of the settings in which two frozen runs differ."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        one, other = before.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differing(one, other, f"{path}{key}.")
        elif one != other:
            found.append(f"{path}{key}")
    return found


def fixed_words(
    before: Sequence[str], now: Sequence[str], started: bool, since: float
) -> tuple[list[str], str | None]:
    """The `analysis.*` words of a sweep that is launched again, and what is to be told of it.

    Once a run of the sweep has a record, what was fixed before stays: a margin or a baseline that
    was chosen with results in sight is no longer one that was fixed beforehand.

    Args:
        before, now: words of the first launch and of this one.
        started: whether a run of the sweep has a record.
        since: when the sweep was first frozen, unix time.
    """
    old = [word for word in before if word.startswith(ANALYSIS)]
    new = [word for word in now if word.startswith(ANALYSIS)]
    if not started:
        return new or old, None
    ignored = [word for word in new if word not in old]
    if not ignored:
        return old, None
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(since))
    stood = ", ".join(word.removeprefix(ANALYSIS) for word in old) or "nothing"
    return old, (
        f"not taken: {', '.join(word.removeprefix(ANALYSIS) for word in ignored)}. These runs were "
        f"frozen on {day} with {stood}, and some are finished; what the file fixes now was not "
        "fixed before them. `ablate table` with --margin, --baseline, --metric, --rows or --cols "
        "shows the same runs another way; new seeds make a new sweep"
    )


def frozen_before(path: Path) -> dict[str, Any] | None:
    """The content of a sweep that was frozen before, or None."""
    return dict(read_json(path)) if path.exists() else None
