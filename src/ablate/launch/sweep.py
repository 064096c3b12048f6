"""A sweep: a set of frozen runs on disk, from which every job reads what it has to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.config.identity import digest
from ablate.config.run import RunConfig, validate
from ablate.errors import ConfigError
from ablate.stages.graph import RunPlan, plan
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


def freeze(sweep: Sweep, command: Sequence[str]) -> None:
    """Writes the frozen runs. Editing a YAML file afterwards changes nothing."""
    for identity, planned in sweep.plans.items():
        write_json(sweep.frozen(identity), planned.run.model_dump(mode="json"))
    write_json(sweep.folder / "sweep.json", {"overrides": list(command), "runs": list(sweep.plans)})


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
