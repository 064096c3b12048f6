"""The local pools that work on a sweep now, on whatever machine: each holds a claim meanwhile."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from ablate.store import claims
from ablate.store.layout import Layout


@dataclass(frozen=True)
class PoolAtWork:
    """A launcher's process; `since` is when it began, in seconds of the epoch."""

    host: str
    pid: int
    since: float


@contextlib.contextmanager
def at_work(layout: Layout, sweep: str) -> Iterator[None]:
    """Tells everybody who looks at the store that this process works on the sweep.

    Raises:
        StoreError: the store cannot be written.
    """
    # several may work on one sweep
    with claims.held(layout.claims / f"{_prefix(sweep)}{secrets.token_hex(4)}"):
        yield


def pools(layout: Layout, sweep: str) -> list[PoolAtWork]:
    """The pools that are alive, as far as their heartbeats tell; the first one first."""
    found = []
    for path in layout.claims.glob(f"{_prefix(sweep)}*"):
        owner = claims.owner_of(path)
        if owner and not claims.is_private(path) and claims.is_held(path):
            found.append(PoolAtWork(str(owner["host"]), int(owner["pid"]), float(owner["since"])))
    return sorted(found, key=lambda pool: pool.since)


def _prefix(sweep: str) -> str:
    return f"pool-{sweep}-"
