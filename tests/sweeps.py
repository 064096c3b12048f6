"""Small frozen sweeps for the tests of launchers."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ablate.config.compose import compose
from ablate.config.expand import Expansion
from ablate.launch import local
from ablate.launch.local import RunOutcome, run_locally
from ablate.launch.sweep import Sweep, freeze, prepare
from ablate.store import files
from smallrun import SMALL


def sweep_of(store: Path, *arms: list[str]) -> Sweep:
    """A sweep of these arms, frozen."""
    runs = [compose([*SMALL, f"results_dir={store}", *arm]) for arm in arms]
    sweep = prepare(Expansion(runs, [{} for _ in runs]))
    freeze(sweep, ["test"], "local", {"workers": 2, "max_restarts": 0})
    return sweep


def go(sweep: Sweep, show: local.Show | None = None) -> dict[str, RunOutcome]:
    """Carries it out, two jobs at a time; outcomes by objective."""
    outcomes = run_locally(sweep, 2, show or (lambda state: None))
    return {sweep.plans[o.identity].run.objective.name: o for o in outcomes}


@contextlib.contextmanager
def striking(
    claim: Path, times: int = 1, after: float = 0.0, with_: signal.Signals = signal.SIGKILL
) -> Iterator[list[int]]:
    """Meanwhile whoever holds a claim gets a signal, `after` seconds on; yields those it hit."""
    struck: list[int] = []
    stop = threading.Event()

    def strike() -> None:
        while len(struck) < times and not stop.wait(0.02):
            with contextlib.suppress(Exception):  # released meanwhile
                pid = files.read_json(claim / "owner.json")["pid"]
                if pid not in struck:
                    time.sleep(after)
                    os.kill(pid, with_)
                    struck.append(pid)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield struck
    finally:
        stop.set()
        thread.join()


def stage_claim(sweep: Sweep, name: str) -> Path:
    """The claim on a stage that the sweep's first run needs."""
    planned = next(iter(sweep.plans.values()))
    stage = next(stage for stage in planned.stages() if stage.name == name)
    return sweep.layout.claims / stage.identity
