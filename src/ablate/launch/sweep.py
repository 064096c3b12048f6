"""A sweep: a set of frozen runs on disk, from which every job reads what it has to do."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.config.identity import digest
from ablate.config.run import RunConfig, validate
from ablate.errors import ConfigError, StoreError
from ablate.stages.complete import run_name
from ablate.stages.graph import RunPlan, plan
from ablate.store import crash
from ablate.store.files import read_json, write_json
from ablate.store.layout import Layout


@dataclass(frozen=True)
class Sweep:
    """Plans by identity, in the order in which they were asked for."""

    name: str
    layout: Layout
    plans: dict[str, RunPlan]

    @property
    def folder(self) -> Path:
        return self.layout.sweeps / self.name

    def frozen(self, identity: str) -> Path:
        """The frozen run that a job reads."""
        return self.folder / "runs" / f"{identity}.json"


def layout_of(run: RunConfig) -> Layout:
    """The store of a run."""
    return Layout(Path(run.results_dir).expanduser())


def prepare(runs: Sequence[RunConfig], name: str | None = None) -> Sweep:
    """Plans the runs; runs with equal identity are one."""
    layout = layout_of(runs[0])
    plans: dict[str, RunPlan] = {}
    for run in runs:
        planned = plan(run, layout)
        plans.setdefault(planned.identity, planned)
    return Sweep(name or digest(sorted(plans))[:12], layout, plans)


def freeze(sweep: Sweep, command: Sequence[str], launcher: str, options: dict[str, Any]) -> None:
    """Writes the frozen runs. Editing a YAML file afterwards changes nothing.

    Args:
        command: the words of the sweep, for people.
        launcher: `local` or `slurm`, and `options` its settings: `retry` uses them again.
    """
    sweep.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for identity, planned in sweep.plans.items():
        write_json(sweep.frozen(identity), planned.run.model_dump(mode="json"))
        crash.point("sweep-run-frozen")
    write_json(
        sweep.folder / "sweep.json",
        {
            "overrides": list(command),
            "runs": list(sweep.plans),
            "names": {identity: run_name(planned) for identity, planned in sweep.plans.items()},
            "time": time.time(),
            "launcher": launcher,
            "options": options,
        },
    )
    crash.point("sweep-frozen")


def find_sweep(layout: Layout, name: str | None) -> Path:
    """The folder of a sweep whose name begins with `name`; None means the newest.

    Raises:
        StoreError: no such sweep, or several.
    """
    found = sorted(layout.sweeps.glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise StoreError(f"there is no sweep in {layout.root.resolve()}")
    if name is None:
        return found[-1].parent
    fitting = [path.parent for path in found if path.parent.name.startswith(name)]
    exact = [folder for folder in fitting if folder.name == name]
    if len(exact or fitting) != 1:
        listed = ", ".join(path.parent.name for path in found[-8:])
        what = "no sweep begins" if not fitting else f"{len(fitting)} sweeps begin"
        raise StoreError(f"{what} with '{name}'; the last ones are {listed}")
    return (exact or fitting)[0]


def launcher_of(folder: Path) -> tuple[str, dict[str, Any]]:
    """The launcher that a sweep was given to, and its settings."""
    plain = read_json(folder / "sweep.json")
    return str(plain["launcher"]), dict(plain["options"])


def thaw_sweep(folder: Path) -> Sweep:
    """A sweep as it was frozen.

    Raises:
        ConfigError: as `thaw`.
    """
    plans = {
        identity: thaw(folder / "runs" / f"{identity}.json")
        for identity in read_json(folder / "sweep.json")["runs"]
    }
    return Sweep(folder.name, Layout(folder.parent.parent), plans)


def thaw(path: Path) -> RunPlan:
    """The plan of a frozen run.

    Raises:
        ConfigError: a file that the run reads, or ablate itself, changed since it was frozen.
    """
    plain: dict[str, Any] = read_json(path)
    run = validate(plain)
    planned = plan(run, layout_of(run))
    if planned.identity != path.stem:
        raise ConfigError(
            "the dataset, a model folder or ablate's own code changed since this sweep was "
            "planned, so this would be another run. Give the command again"
        )
    return planned
