"""A sweep: a set of frozen runs on disk, from which every job reads what it has to do."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ablate.config.expand import Contest as AskedContest
from ablate.config.expand import Expansion
from ablate.config.identity import digest
from ablate.config.run import RunConfig, validate
from ablate.errors import ConfigError, StoreError, did_you_mean
from ablate.launch import launches
from ablate.metrics import describe
from ablate.stages.complete import rounds_of, run_name
from ablate.stages.graph import RunPlan, plan
from ablate.store import claims, crash, records
from ablate.store.files import read_json, write_json
from ablate.store.layout import Layout
from ablate.store.secrets import scrub
from ablate.store.sweeps import (
    CONTENT,
    Contest,
    Trial,
    commands_of,
    contest_data,
    names,
    own_name,
    read_sweep,
    sweeps,
)

#: of a contest's key; it stands in names of jobs and logs
KEY_LENGTH = 12


@dataclass(frozen=True)
class Sweep:
    """Plans by identity, in the order in which they were asked for.

    Where arms are tuned, these are the runs of their trials, and `contests` says what follows.
    labels: identity → what the run stands for in the study beyond its settings. keys: of each
    contest that was asked for; equal ones are one.
    """

    name: str
    layout: Layout
    plans: dict[str, RunPlan]
    contests: list[Contest] = field(default_factory=list)
    labels: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.layout.sweeps / self.name

    def frozen(self, identity: str) -> Path:
        """The frozen run that a job reads."""
        return self.folder / "runs" / f"{identity}.json"


def layout_of(run: RunConfig) -> Layout:
    """The store of a run."""
    return Layout(Path(run.results_dir).expanduser())


def prepare(expansion: Expansion, read_only: bool = False) -> Sweep:
    """Plans the runs; runs with equal identity are one, and so are contests of equal trials.

    Raises:
        ConfigError: trials would be compared by what has no better and worse.
    """
    layout = replace(layout_of(expansion.runs[0]), read_only=read_only)
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
    keys = []
    for asked, label in zip(expansion.contests, expansion.contest_labels, strict=True):
        contest = _contest(asked, identity_of)
        keys.append(contest.key)
        _label(contests.setdefault(contest.key, contest).labels, label)
    name = digest([sorted(plans), sorted(contests)] if contests else sorted(plans))[:12]
    labels = {identity: found for identity, found in labels.items() if found}
    own = own_name(layout, name)
    return Sweep(own, layout, plans, list(contests.values()), labels, keys)


def chosen_trials(expansion: Expansion) -> list[int | None]:
    """Per contest the place of the trial that an earlier launch of these words has chosen.

    Only looks: nothing is written.

    Raises:
        ConfigError: as `prepare`.
    """
    if not expansion.contests:
        return []
    sweep = prepare(expansion, read_only=True)
    if not (sweep.folder / CONTENT).exists():
        return [None] * len(expansion.contests)
    choices = {contest.key: contest.choice for contest in read_sweep(sweep.folder).contests}
    found = [choices.get(key) for key in sweep.keys]
    return [None if choice is None else choice.trial for choice in found]


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


def freeze(
    sweep: Sweep, command: Sequence[str], launcher: str, options: dict[str, Any]
) -> list[str]:
    """Writes the frozen runs. Editing a YAML file afterwards changes nothing.

    Nor does another launch of the same runs, as long as somebody may read what the first one
    froze, or where the run has its record: `sweep.plans` then become what is frozen. What the
    first launch fixed of the analysis stays from the first record on.

    Args:
        command: the words of the sweep, for people.
        launcher: `local` or `slurm`, and `options` its settings: `retry` uses the newest again.

    Returns:
        what a person must be told: words of this launch that are not taken.

    Raises:
        StoreError: another account has launched the same runs since they were planned.
    """
    sweep.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if own_name(sweep.layout, sweep.name) != sweep.name:
        raise StoreError(
            "another account has just launched the same runs. Give the command again: it takes a "
            "folder of its own, and finds in the store what is done"
        )
    with claims.claimed(sweep.layout.claims / f"sweep-{sweep.name}", done=lambda: False):
        told = _freeze_runs(sweep)
        words = [scrub(word) for word in command]
        now = time.time()
        launch = {"overrides": words, "launcher": launcher, "options": options, "time": now}
        content = {
            "overrides": words,
            "runs": list(sweep.plans),
            "names": {identity: run_name(planned) for identity, planned in sweep.plans.items()},
            "labels": sweep.labels,
            "policies": {
                identity: [stage.identity for stage in rounds_of(planned)]
                for identity, planned in sweep.plans.items()
            },
            "contests": [contest_data(contest) for contest in sweep.contests],
            "time": now,
            "launcher": launcher,
            "options": options,
            "launches": [launch],
        }
        before = launches.frozen_before(sweep.folder / CONTENT)
        if before is not None:
            started = any(records.has_record(sweep.layout, i) for i in sweep.plans)
            told += _join(content, before, started)
        write_json(sweep.folder / CONTENT, content)
        crash.point("sweep-frozen")
    return told


def _freeze_runs(sweep: Sweep) -> list[str]:
    """Writes each run that may be written; of the others, what was asked and is not taken."""
    changed: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for identity, planned in sweep.plans.items():
        path = sweep.frozen(identity)
        plain = planned.run.model_dump(mode="json")
        before = launches.frozen_before(path)
        if before is None:
            _write_run(path, plain)
        # what ran is what stands there
        elif before != plain and (
            planned.run.force is not False or not records.has_record(sweep.layout, identity)
        ):
            changed[identity] = before, plain
    if not changed:
        return []
    who = launches.readers(sweep.layout, sweep.name)
    if who is None:
        for identity, (_, plain) in changed.items():
            _write_run(sweep.frozen(identity), plain)
        _follow(sweep)
        return []
    for identity, (before, _) in changed.items():
        sweep.plans[identity] = RunPlan(validate(before), sweep.plans[identity].evaluation)
    names = sorted({name for pair in changed.values() for name in launches.differing(*pair)})
    return [
        f"{len(changed)} of {len(sweep.plans)} runs stay as they were frozen, because {who}. "
        f"Not taken: {', '.join(names)}. To change that, `ablate cancel {sweep.name}` or end the "
        "other launcher, and give the command again"
    ]


def _follow(sweep: Sweep) -> None:
    """Gives settings that are no part of an identity to what hangs on runs of the first phase."""
    if not (sweep.folder / CONTENT).exists():
        return
    found = read_sweep(sweep.folder)
    chosen = set(found.chosen)
    for contest in found.contests:
        if contest.choice is None:
            continue
        first = sweep.plans[contest.trials[contest.choice.trial].runs[0]].run
        for seed, identity in contest.choice.runs.items():
            if not records.has_record(sweep.layout, identity):
                plain = first.model_dump(mode="json")
                plain["seed"]["value"] = seed
                write_json(sweep.frozen(identity), plain)
    for path in (sweep.folder / "runs").glob("*.json"):
        # frozen only for the sake of a stage; frozen again when a job needs it
        known = path.stem in sweep.plans or path.stem in chosen
        if not known and not (sweep.layout.attempts / path.stem).exists():
            path.unlink()


def _join(content: dict[str, Any], before: dict[str, Any], started: bool) -> list[str]:
    """Lets the content of a sweep's file keep what earlier launches left in it."""
    # a sweep frozen before there was a list of launches had one
    earlier = before.get("launches") or [
        {key: before[key] for key in ("overrides", "launcher", "options", "time")}
    ]
    (launch,) = content["launches"]
    same = {**earlier[-1], "time": launch["time"]} == launch
    content["launches"] = [*(earlier[:-1] if same else earlier), launch]
    fixed, told = launches.fixed_words(
        before["overrides"], content["overrides"], started, earlier[0]["time"]
    )
    typed = [w for w in before["overrides"] if not w.startswith(launches.ANALYSIS)]
    content["overrides"] = [*typed, *fixed]
    for identity, labels in before.get("labels", {}).items():
        own = content["labels"].get(identity, [])
        content["labels"][identity] = [*labels, *(label for label in own if label not in labels)]
    older = {contest["key"]: contest["labels"] for contest in before.get("contests", [])}
    for contest in content["contests"]:
        labels = older.get(contest["key"], [])
        contest["labels"] = [*labels, *(one for one in contest["labels"] if one not in labels)]
    return [] if told is None else [told]


def freeze_run(folder: Path, planned: RunPlan) -> None:
    """Writes one frozen run into the folder of a sweep, unless it is there."""
    path = folder / "runs" / f"{planned.identity}.json"
    if not path.exists():
        _write_run(path, planned.run.model_dump(mode="json"))


def _write_run(path: Path, plain: dict[str, Any]) -> None:
    write_json(path, plain)
    crash.point("sweep-run-frozen")


def find_sweep(layout: Layout, name: str | None) -> Path:
    """The folder of a sweep, by the beginning of its name or by its file's (the newest of those).

    None means the newest of all.

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
    if len(exact or fitting) == 1:
        return (exact or fitting)[0]
    named = {folder: names(commands_of(read_json(folder / CONTENT))) for folder in found}
    of_file = [folder for folder in found if name in named[folder]]
    if of_file:
        return of_file[-1]
    told = [folder.name + "".join(f" ({title})" for title in named[folder]) for folder in found]
    hint = did_you_mean(name, [title for titles in named.values() for title in titles])
    what = "no sweep is called so or begins" if not fitting else f"{len(fitting)} sweeps begin"
    raise StoreError(f"{what} with '{name}'.{hint} The last ones are {', '.join(told[-8:])}")


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
        ConfigError: a file that the run reads, or ablate itself, changed since it was frozen; or a
            copy of a store, which holds results and not what was frozen.
    """
    if not path.exists():
        raise ConfigError(
            f"{path.parent.parent} does not hold the run {path.stem[:12]} as it was frozen: a copy "
            "by `ablate compact --to` holds results, and runs are repeated in the store itself"
        )
    plain: dict[str, Any] = read_json(path)
    run = validate(plain)
    planned = plan(run, layout_of(run))
    if planned.identity != path.stem:
        raise ConfigError(
            "the dataset, a model folder or ablate's own code changed since this sweep was "
            "planned, so this would be another run. Give the command again"
        )
    return planned
