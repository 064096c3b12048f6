"""A sweep: a set of frozen runs on disk, from which every job reads what it has to do."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.config.expand import Contest as AskedContest
from ablate.config.expand import Expansion
from ablate.config.identity import digest
from ablate.config.run import RunConfig, validate
from ablate.errors import ConfigError, StoreError
from ablate.metrics import describe
from ablate.stages.complete import rounds_of, run_name
from ablate.stages.graph import RunPlan, plan
from ablate.store import crash
from ablate.store.files import read_json, write_json
from ablate.store.layout import Layout
from ablate.store.secrets import scrub
from ablate.store.sweeps import CONTENT, Contest, Trial, contest_data, read_sweep, sweeps

#: of a contest's key; it stands in names of jobs and logs
KEY_LENGTH = 12


@dataclass(frozen=True)
class Sweep:
    """Plans by identity, in the order in which they were asked for.

    Where arms are tuned, these are the runs of their trials, and `contests` says what follows.
    labels: identity → what the run stands for in the study beyond its settings.
    """

    name: str
    layout: Layout
    plans: dict[str, RunPlan]
    contests: list[Contest] = field(default_factory=list)
    labels: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.layout.sweeps / self.name

    def frozen(self, identity: str) -> Path:
        """The frozen run that a job reads."""
        return self.folder / "runs" / f"{identity}.json"


def layout_of(run: RunConfig) -> Layout:
    """The store of a run."""
    return Layout(Path(run.results_dir).expanduser())


def prepare(expansion: Expansion) -> Sweep:
    """Plans the runs; runs with equal identity are one, and so are contests of equal trials.

    Raises:
        ConfigError: trials would be compared by what has no better and worse.
    """
    layout = layout_of(expansion.runs[0])
    plans: dict[str, RunPlan] = {}
    labels: dict[str, list[dict[str, str]]] = {}
    #: a run is planned once however often it is asked for
    identity_of: dict[int, str] = {}
    for run, label in zip(expansion.runs, expansion.labels, strict=True):
        planned = plan(run, layout)
        identity = identity_of[id(run)] = planned.identity
        plans.setdefault(identity, planned)
        _label(labels.setdefault(identity, []), label)
    contests: dict[str, Contest] = {}
    for asked, label in zip(expansion.contests, expansion.contest_labels, strict=True):
        contest = _contest(asked, identity_of)
        _label(contests.setdefault(contest.key, contest).labels, label)
    name = digest([sorted(plans), sorted(contests)] if contests else sorted(plans))[:12]
    labels = {identity: found for identity, found in labels.items() if found}
    return Sweep(name, layout, plans, list(contests.values()), labels)


def _label(labels: list[dict[str, str]], label: dict[str, str]) -> None:
    if label and label not in labels:
        labels.append(label)


def check_by(by: str) -> None:
    """Refuses to compare trials by what has no better and worse.

    Raises:
        ConfigError: names the metric.
    """
    if describe(by).better == 0 or describe(by).compute is not None:
        raise ConfigError(
            f"tune.by={by}: trials are compared by a metric of the record that has a better "
            "and a worse, such as reward/valid or win_rate/valid"
        )


def check_folder(runs: Sequence[RunConfig]) -> None:
    """Refuses a sweep that would write to several stores.

    Raises:
        ConfigError: names the folders.
    """
    folders = sorted({run.results_dir for run in runs})
    if len(folders) > 1:
        raise ConfigError(f"a sweep writes to one results_dir, not to {', '.join(folders)}")


def _contest(asked: AskedContest, identity_of: dict[int, str]) -> Contest:
    check_by(asked.by)
    trials = [Trial(t.settings, [identity_of[id(run)] for run in t.runs]) for t in asked.trials]
    key = digest([[trial.runs for trial in trials], asked.seeds, asked.by])[:KEY_LENGTH]
    return Contest(key, asked.by, trials, asked.seeds, [], None)


def freeze(sweep: Sweep, command: Sequence[str], launcher: str, options: dict[str, Any]) -> None:
    """Writes the frozen runs. Editing a YAML file afterwards changes nothing.

    Args:
        command: the words of the sweep, for people.
        launcher: `local` or `slurm`, and `options` its settings: `retry` uses them again.
    """
    sweep.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for planned in sweep.plans.values():
        freeze_run(sweep.folder, planned)
    write_json(
        sweep.folder / CONTENT,
        {
            "overrides": [scrub(word) for word in command],
            "runs": list(sweep.plans),
            "names": {identity: run_name(planned) for identity, planned in sweep.plans.items()},
            "labels": sweep.labels,
            "policies": {
                identity: [stage.identity for stage in rounds_of(planned)]
                for identity, planned in sweep.plans.items()
            },
            "contests": [contest_data(contest) for contest in sweep.contests],
            "time": time.time(),
            "launcher": launcher,
            "options": options,
        },
    )
    crash.point("sweep-frozen")


def freeze_run(folder: Path, planned: RunPlan) -> None:
    """Writes one frozen run into the folder of a sweep."""
    path = folder / "runs" / f"{planned.identity}.json"
    plain = planned.run.model_dump(mode="json")
    # the same command again would flush a thousand files to the disk for nothing
    if not path.exists() or read_json(path) != plain:
        write_json(path, plain)
    crash.point("sweep-run-frozen")


def find_sweep(layout: Layout, name: str | None) -> Path:
    """The folder of a sweep whose name begins with `name`; None means the newest.

    Raises:
        StoreError: no such sweep, or several.
    """
    found = sweeps(layout)
    if not found:
        raise StoreError(f"there is no sweep in {layout.root.resolve()}")
    if name is None:
        return found[-1]
    fitting = [folder for folder in found if folder.name.startswith(name)]
    exact = [folder for folder in fitting if folder.name == name]
    if len(exact or fitting) != 1:
        listed = ", ".join(folder.name for folder in found[-8:])
        what = "no sweep begins" if not fitting else f"{len(fitting)} sweeps begin"
        raise StoreError(f"{what} with '{name}'; the last ones are {listed}")
    return (exact or fitting)[0]


def thaw_sweep(folder: Path) -> Sweep:
    """A sweep as it was frozen, with what its contests have chosen by now.

    Raises:
        ConfigError: as `thaw`.
    """
    found = read_sweep(folder)
    plans = {identity: thaw(found.frozen(identity)) for identity in found.runs}
    layout = Layout(folder.parent.parent)
    return Sweep(folder.name, layout, plans, found.contests, found.labels)


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
