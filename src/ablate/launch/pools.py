"""The launchers that work on a sweep now, on whatever machine, by the claims that they hold."""

from dataclasses import dataclass

from ablate.launch.launches import claims_of
from ablate.store import claims
from ablate.store.layout import Layout


@dataclass(frozen=True)
class PoolAtWork:
    """A launcher's process; `since` is when it began, in seconds of the epoch."""

    host: str
    pid: int
    since: float


def pools(layout: Layout, sweep: str) -> list[PoolAtWork]:
    """Those that are alive, as far as their heartbeats tell; the first one first.

    Local pools, and whoever is about to submit the sweep to SLURM.
    """
    found = []
    for path in claims_of(layout, sweep):
        owner = claims.owner_of(path)
        if owner and claims.is_held(path):
            found.append(PoolAtWork(str(owner["host"]), int(owner["pid"]), float(owner["since"])))
    return sorted(found, key=lambda pool: pool.since)
