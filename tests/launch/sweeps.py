"""Small frozen sweeps for the tests of launchers."""

from pathlib import Path

from ablate.config.compose import compose
from ablate.config.expand import Expansion
from ablate.launch import local
from ablate.launch.local import RunOutcome, run_locally
from ablate.launch.sweep import Sweep, freeze, prepare
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
