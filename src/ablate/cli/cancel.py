"""`ablate cancel`: stops what is left of a sweep, on SLURM or on this machine; the store stays."""

import os
import signal
import socket
import time
from collections.abc import Sequence

from rich.console import Console

from ablate.cli.store_words import split_words
from ablate.cli.usage import STORE, Usage
from ablate.cli.words import several
from ablate.errors import ConfigError
from ablate.launch import scheduler
from ablate.launch.pools import PoolAtWork, pools
from ablate.launch.slurm import held
from ablate.launch.sweep import find_sweep
from ablate.store.layout import Layout

USAGE = Usage(
    "ablate cancel [SWEEP] [results_dir=DIR]",
    "Stops what is left of a sweep, on SLURM or on this machine; what is in the store stays.",
    words=(
        ("SWEEP", "name or beginning of the id; without it the newest"),
        STORE,
    ),
    examples=("ablate cancel", "ablate cancel quick"),
)
#: how long a pool may take to end its jobs; those that are deaf are killed after 20 s
PATIENCE_SECONDS = 40.0
POLL_SECONDS = 0.2


def main(argv: Sequence[str]) -> int:
    """Cancels the sweep's queued and running jobs, and stops local pools of this machine.

    Returns 1 if a pool still works on it, here or elsewhere.
    """
    layout, words, flags = split_words(argv, USAGE)
    if len(words) > 1 or flags:
        raise ConfigError(f"cancel takes one sweep (usage: {USAGE})")
    folder = find_sweep(layout, words[0] if words else None)
    console = Console(soft_wrap=True)
    jobs = sorted(set(held(folder).values()))
    scheduler.cancel(jobs)
    told = [f"{several(len(jobs), 'job')} cancelled"] if jobs else []
    local = pools(layout, folder.name)
    here = [pool for pool in local if pool.host == socket.gethostname() and _stop(pool)]
    left = _await(layout, folder.name, here)
    stopped = [pool for pool in here if pool not in left]
    told += [f"the launcher on this machine (process {pool.pid}) stopped" for pool in stopped]
    if told:
        line = f"sweep {folder.name}: {', '.join(told)}; `ablate retry {folder.name}` goes on"
        console.print(line, highlight=False)
    elsewhere = [pool for pool in local if pool not in stopped]
    for pool in elsewhere:
        console.print(
            f"sweep {folder.name} still runs on {pool.host}, process {pool.pid}: stop it there, "
            f"with Ctrl-C or `kill {pool.pid}`",
            highlight=False,
        )
    if not told and not elsewhere:
        console.print(f"sweep {folder.name}: nothing runs, so nothing was cancelled")
    return 1 if elsewhere else 0


def _stop(pool: PoolAtWork) -> bool:
    """Asks a process of this machine to end as by Ctrl-C; False if it is another user's."""
    try:
        os.kill(pool.pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def _await(layout: Layout, sweep: str, stopping: list[PoolAtWork]) -> list[PoolAtWork]:
    """Those that are still at work when patience ends."""
    end = time.monotonic() + PATIENCE_SECONDS
    left = stopping
    while left and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
        now = pools(layout, sweep)
        left = [pool for pool in stopping if pool in now]
    return left
