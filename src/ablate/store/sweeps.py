"""Frozen sweeps as files: their runs, the contests of their first phase, and what was chosen."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.store.files import read_json, write_json
from ablate.store.layout import Layout

CONTENT = "sweep.json"


@dataclass(frozen=True)
class Trial:
    """Values of the tuned settings, and identities of the runs that judge them."""

    settings: dict[str, float]
    runs: list[str]


@dataclass(frozen=True)
class Choice:
    """What a contest ended with.

    values: per trial the mean that was compared, None for a trial that lacks a run. runs: seed →
    identity of the run that reports it.
    """

    trial: int
    settings: dict[str, float]
    values: list[float | None]
    runs: dict[int, str]
    names: dict[str, str]


@dataclass(frozen=True)
class Contest:
    """An arm that is tuned. `labels`: what it stands for in the study, such as several matches."""

    key: str
    by: str
    trials: list[Trial]
    seeds: list[int]
    labels: list[dict[str, str]]
    choice: Choice | None

    def promise(self, seed: int) -> str:
        """Name of the run that reports a seed, before it is known which run that is."""
        return f"{self.key}-{seed}"

    @property
    def runs(self) -> list[str]:
        """Identities of all trial runs."""
        return [run for trial in self.trials for run in trial.runs]


@dataclass(frozen=True)
class FrozenSweep:
    """The content of a sweep's folder. `asked` leaves out what the contests have chosen.

    overrides: words of the first launch, with what it fixed of the analysis. time, launcher,
    options: of the newest launch.
    """

    folder: Path
    asked: list[str]
    names: dict[str, str]
    labels: dict[str, list[dict[str, str]]]
    contests: list[Contest]
    overrides: list[str]
    time: float
    launcher: str
    options: dict[str, Any]
    #: run → identities of the policies that it trains
    policies: dict[str, list[str]]
    #: words of every launch, without what the sweep's file added
    commands: list[list[str]] = field(default_factory=list)

    @property
    def runs(self) -> list[str]:
        """Identities of all runs that are known by now, in order."""
        return list(dict.fromkeys([*self.asked, *self.chosen]))

    @property
    def chosen(self) -> list[str]:
        """Identities of the second phase's runs, as far as they are known."""
        return [
            run
            for contest in self.contests
            if contest.choice is not None
            for run in contest.choice.runs.values()
        ]

    @property
    def trials(self) -> list[str]:
        """Identities of the first phase's runs."""
        return [run for contest in self.contests for run in contest.runs]

    def open(self) -> Iterator[tuple[Contest, int]]:
        """Contests without a choice, with each seed that waits for it."""
        for contest in self.contests:
            if contest.choice is None:
                yield from ((contest, seed) for seed in contest.seeds)

    def frozen(self, identity: str) -> Path:
        """The frozen run."""
        return self.folder / "runs" / f"{identity}.json"


def read_sweep(folder: Path) -> FrozenSweep:
    """A sweep as its folder holds it now.

    Raises:
        StoreError: a file that cannot be read.
    """
    plain = read_json(folder / CONTENT)
    contests = [_contest(folder, item) for item in plain.get("contests", [])]
    names, labels = dict(plain["names"]), dict(plain.get("labels", {}))
    for contest in contests:
        if contest.choice is not None:
            names |= contest.choice.names
            for run in contest.choice.runs.values():
                labels[run] = [*labels.get(run, []), *contest.labels]
    return FrozenSweep(
        folder, list(plain["runs"]), names, labels, contests, list(plain["overrides"]),
        float(plain["time"]), str(plain["launcher"]), dict(plain["options"]),
        dict(plain.get("policies", {})), commands_of(plain),
    )  # fmt: skip


def commands_of(content: dict[str, Any]) -> list[list[str]]:
    """Words of every launch, the first one first, without what the sweep's file added."""
    launches = content.get("launches") or [{"overrides": content["overrides"]}]
    words = [[str(word) for word in launch["overrides"]] for launch in launches]
    return [[word for word in each if not word.startswith("analysis.")] for each in words]


def names(commands: list[list[str]]) -> list[str]:
    """The names of sweep files in a frozen sweep's command lines."""
    words = [word for command in commands for word in command]
    found = [
        value
        for key, _, value in (word.partition("=") for word in words)
        if key.lstrip("+") == "sweep"
    ]
    return list(dict.fromkeys(found))


def _contest(folder: Path, plain: dict[str, Any]) -> Contest:
    path = choice_path(folder, plain["key"])
    choice = None
    if path.exists():
        content = read_json(path)
        # older stores also say which settings ended at an edge; the tables find that themselves
        content.pop("edges", None)
        choice = Choice(**{**content, "runs": {int(s): r for s, r in content["runs"].items()}})
    trials = [Trial(**trial) for trial in plain["trials"]]
    return Contest(
        plain["key"], plain["by"], trials, list(plain["seeds"]), list(plain["labels"]), choice
    )


def contest_data(contest: Contest) -> dict[str, Any]:
    """A contest as it stands in the sweep's file; its choice has a file of its own."""
    return {
        "key": contest.key,
        "by": contest.by,
        "trials": [vars(trial) for trial in contest.trials],
        "seeds": contest.seeds,
        "labels": contest.labels,
    }


def choice_path(folder: Path, key: str) -> Path:
    """Where the choice of a contest is written."""
    return folder / "chosen" / f"{key}.json"


def write_choice(folder: Path, key: str, choice: Choice) -> None:
    """Leaves the choice of a contest, whole or not at all."""
    write_json(choice_path(folder, key), vars(choice))


def sweeps(layout: Layout) -> list[Path]:
    """Folders of all frozen sweeps that this account may read, by their last start.

    Times of files would not do: in a clone or a copy they say when it was made.
    """
    found = [folder / CONTENT for folder in _folders(layout) if _is_open(folder)]
    started = {path.parent: float(read_json(path)["time"]) for path in found if path.exists()}
    return sorted(started, key=started.__getitem__)


def closed_sweeps(layout: Layout) -> list[Path]:
    """Folders of sweeps of other accounts, which are private."""
    return [folder for folder in _folders(layout) if not _is_open(folder)]


def own_name(layout: Layout, name: str) -> str:
    """A sweep's name for this account: with its number where the folder is another's.

    Stages and records are shared all the same: they are named by what they hold.
    """
    ending = f".{os.geteuid()}"
    if name.endswith(ending) or not _is_open(layout.sweeps):
        return name
    own = name + ending
    folder = layout.sweeps / name
    taken = folder.exists() and not (_is_open(folder) and os.access(folder, os.W_OK))
    return own if taken or (layout.sweeps / own).exists() else name


def _folders(layout: Layout) -> list[Path]:
    if not _is_open(layout.sweeps):
        return []
    return [path for path in layout.sweeps.iterdir() if path.is_dir()]


def _is_open(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)
