"""Sweeps as the store knows them: which runs were asked for, and what became of each."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.errors import StoreError, did_you_mean
from ablate.results.load import Damaged, Runs, read_runs
from ablate.results.rows import settings
from ablate.store import files
from ablate.store.layout import Layout
from ablate.store.sweeps import CONTENT, FrozenSweep, commands_of, names, read_sweep, sweeps

#: words of a command that name places of a machine or a site
_PLACES = ("results_dir=", "hydra.")
#: column of runs of tuned sweeps, and its values
PHASE, TUNE, REPORT = "phase", "tune", "report"


@dataclass(frozen=True)
class SweepNote:
    """What a reader must know of an arm of a sweep.

    arm: what the sweep calls it. runs: identities of the runs that report it, by which a table
    knows its own name for it.
    """

    arm: str
    told: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """Runs to make a table of.

    frame: the finished runs, a row each, as `results.load`.
    lacking: runs that were asked for and have no record: their settings, id, `state` (failed,
        damaged or missing) and `reason`.
    settings: what the sweep fixed about its analysis before it ran (baseline, margin, …).
    notes: what a reader of its table must know of the choice among trials.

    Of a sweep that tunes, `phase` tells runs that chose (tune) from those that report (report). A
    run that stands for several `config.match` of a study of K has a row for each.
    """

    frame: pd.DataFrame
    lacking: pd.DataFrame
    damaged: list[Damaged]
    name: str | None
    settings: dict[str, Any]
    #: the command lines that started the sweep, without `ablate`
    commands: tuple[str, ...] = ()
    notes: list[SweepNote] = field(default_factory=list)

    @property
    def reported(self) -> pd.DataFrame:
        """The finished runs without those that only chose among trials."""
        return self.frame[self.frame["phase"] != TUNE] if PHASE in self.frame else self.frame


def sweep_folders(layout: Layout, name: str) -> list[Path]:
    """The frozen sweeps that `name` stands for, oldest first.

    That is the name of a sweep file (every sweep that was started as `+sweep=NAME`), or the
    beginning of a frozen sweep's identity.

    Raises:
        StoreError: none, or several identities; lists what there is.
    """
    known = {folder: files.read_json(folder / CONTENT) for folder in sweeps(layout)}
    named = {folder: names(commands_of(content)) for folder, content in known.items()}
    found = [folder for folder in known if name in named[folder]]
    if found:
        return found
    begins = [folder for folder in known if folder.name.startswith(name)]
    begins = [folder for folder in begins if folder.name == name] or begins
    if len(begins) == 1:
        return begins
    listed = [folder.name + "".join(f" ({title})" for title in named[folder]) for folder in known]
    told = "; there are: " + ", ".join(listed) if listed else "; it holds no sweep at all"
    if begins:
        raise StoreError(f"'{name}' fits {len(begins)} sweeps{told}")
    known_names = [title for titles in named.values() for title in titles]
    hint = did_you_mean(name, [*known_names, *(folder.name for folder in known)])
    told += f".{hint}" if hint else ""
    raise StoreError(f"no sweep '{name}' in {layout.root.resolve()}{told}")


def copy_sweeps(layout: Layout, target: Layout, names: list[str] | None) -> None:
    """Hands on what was asked for: frozen sweeps, with the settings of runs that did not finish.

    Args:
        names: as for `sweep_folders`; None copies all.
    """
    folders = sweeps(layout)
    if names is not None:
        folders = [folder for name in names for folder in sweep_folders(layout, name)]
    reasons = _failures(layout)
    for folder in folders:
        new = target.sweeps / folder.name
        for path in [folder / CONTENT, *sorted((folder / "chosen").glob("*.json"))]:
            content = files.read_json(path)
            if "launches" in content:
                kept = [{"overrides": _without_places(words)} for words in commands_of(content)]
                content = {**content, "launches": kept}
            if "overrides" in content:
                words = [w for w in content["overrides"] if not w.startswith(_PLACES)]
                content = {**content, "overrides": words, "options": {}}
            files.write_json(new / path.relative_to(folder), content)
        one = read_sweep(folder)
        there = read_runs(layout.root, one.runs).frame
        finished = set(there["id"]) if len(there) else set()
        # of an undecided contest, one trial stands for the runs that nobody can name yet
        needed = {contest.runs[0] for contest, _ in one.open()}
        for identity in one.runs:
            if identity in finished - needed:
                continue
            config = files.read_json(one.frozen(identity))
            files.write_json(
                new / "runs" / f"{identity}.json", {**config, "results_dir": "results"}
            )
            if identity in reasons:
                attempt = target.attempts / identity / "1"
                failure = {
                    "name": one.names[identity],
                    "reason": reasons[identity],
                    "time": one.time,
                }
                files.write_json(attempt / "failure.json", failure)


def typed(words: list[str]) -> str:
    """The words of a sweep's command line, without what its file added and local paths."""
    return " ".join(shlex.quote(word) for word in [*_without_places(words), "-m"])


def _without_places(words: list[str]) -> list[str]:
    return [w for w in words if not w.startswith(("analysis.", *_PLACES))]


def analysis_of(content: dict[str, Any]) -> dict[str, Any]:
    """What the sweep file fixed about its table: rows, cols, metrics (lists), baseline, margin."""
    found: dict[str, Any] = {}
    for word in content["overrides"]:
        key, _, value = str(word).partition("=")
        if key.startswith("analysis."):
            name = key.removeprefix("analysis.")
            found[name] = value.split(",") if name in ("rows", "cols", "metrics") else value
    return found


def fixed_margin(analysis: dict[str, Any], metric: str) -> str | None:
    """The margin that a sweep file fixed, if it speaks of this metric: it has a unit."""
    margin = analysis.get("margin")
    if margin is None:
        return None
    own = analysis.get("metrics") or ["reward/test"]
    same = metric.partition("/")[0] == str(own[0]).partition("/")[0]
    return str(margin) if same else None


def load_study(root: str | Path, sweep: str | None = None) -> Study:
    """The runs of a sweep, or of a whole store, with those that are missing.

    Raises:
        StoreError: no such folder or sweep.
    """
    layout = Layout(Path(root))
    if sweep is None:
        runs = read_runs(root)
        reasons = _failures(layout)
        frozen = _frozen_anywhere(layout, list(reasons))
        lacking = [
            {**frozen[identity], "id": identity, "state": "failed", "reason": reasons[identity]}
            for identity in frozen
        ]
        return Study(runs.frame, pd.DataFrame(lacking), runs.damaged, None, {})
    if not layout.root.is_dir():
        raise StoreError(f"there is no results folder {layout.root.resolve()}")
    found = [read_sweep(folder) for folder in sweep_folders(layout, sweep)]
    analysis: dict[str, Any] = {}
    for one in found:
        analysis |= analysis_of({"overrides": one.overrides})
    asked = {identity: one for one in found for identity in one.runs}
    runs = read_runs(root, asked)
    # several accounts may have launched one sweep
    awaited = {row["id"]: row for one in found for row in _awaited(one)}
    lacking = [*_lacking(layout, asked, runs), *awaited.values()]
    return Study(
        _in_study(runs.frame, found),
        _in_study(pd.DataFrame(lacking), found),
        runs.damaged,
        sweep,
        analysis,
        tuple(dict.fromkeys(typed(words) for one in found for words in one.commands)),
        list(dict.fromkeys(note for one in found for note in _choices(one, runs.frame))),
    )


def _in_study(frame: pd.DataFrame, found: list[FrozenSweep]) -> pd.DataFrame:
    """Adds what the sweeps know of the runs: their phase, and a row for each of their labels."""
    trials = {identity for one in found for identity in one.trials}
    labels = {identity: of for one in found for identity, of in one.labels.items()}
    for one in found:
        labels |= {contest.promise(seed): contest.labels for contest, seed in one.open()}
    if frame.empty or not (trials or labels):
        return frame
    if trials:
        frame = frame.assign(**{PHASE: [TUNE if i in trials else REPORT for i in frame["id"]]})
    if not labels:
        return frame
    each = [labels.get(identity) or [{}] for identity in frame["id"]]
    places = [place for place, of in enumerate(each) for _ in of]
    flat = [label for of in each for label in of]
    names = sorted({name for label in flat for name in label})
    added = {f"config.{name}": [label.get(name) for label in flat] for name in names}
    return frame.iloc[places].reset_index(drop=True).assign(**added)


def _awaited(found: FrozenSweep) -> list[dict[str, Any]]:
    """Runs of the second phase that nobody can name yet; tuned settings are those of a trial."""
    rows = []
    for contest, seed in found.open():
        config = files.read_json(found.frozen(contest.runs[0]))
        config["seed"]["value"] = seed
        reason = "no trial of its arm has been chosen"
        known = {"id": contest.promise(seed), "state": "missing", "reason": reason}
        rows.append({**settings(config), **known})
    return rows


def _choices(found: FrozenSweep, runs: pd.DataFrame) -> list[SweepNote]:
    """Contests whose choice lacked trials."""
    notes = []
    names = _arms(found, runs)
    for contest, name in zip(found.contests, names, strict=True):
        choice = contest.choice
        if choice is None:
            continue
        tried = len(contest.trials)
        lacking = sum(value is None for value in choice.values)
        if lacking:
            told = (
                f"chosen among {tried - lacking} of {tried} trials, because the others have no "
                "record (`ablate retry`)"
            )
            notes.append(SweepNote(name, told, tuple(choice.runs.values())))
    return notes


def _arms(found: FrozenSweep, runs: pd.DataFrame) -> list[str]:
    """What the runs of each contest have in common, for people.

    What they are matched in is told where the sweep matches several things. Contests that would be
    called the same are told apart by settings of their finished trials.
    """
    names = []
    every = {v for contest in found.contests for of in contest.labels for v in of.values()}
    for contest in found.contests:
        name = re.sub(r" seed=\d+$", "", found.names[contest.runs[0]])
        told = {value for label in contest.labels for value in label.values()}
        names.append(f"{name} ({', '.join(sorted(told))})" if told and len(every) > 1 else name)
    drawn = {f"config.{name}" for c in found.contests if c.choice for name in c.choice.settings}
    for name in {name for name in names if names.count(name) > 1}:
        same = [place for place, other in enumerate(names) if other == name]
        firsts = [runs[runs["id"].isin(found.contests[place].runs)].head(1) for place in same]
        if any(first.empty for first in firsts):
            continue
        rows = pd.concat(firsts)
        differing = [
            column
            for column in rows
            if column.startswith("config.")
            and column not in drawn
            and rows[column].astype(str).nunique() > 1
        ]
        for place, (_, row) in zip(same, rows.iterrows(), strict=True):
            words = (f"{column.removeprefix('config.')}={row[column]}" for column in differing)
            names[place] = " ".join([name, *words])
    return names


def _lacking(layout: Layout, asked: dict[str, FrozenSweep], runs: Runs) -> list[dict[str, Any]]:
    """Runs without a usable record, with the settings that were frozen for them."""
    finished = set(runs.frame["id"]) if len(runs.frame) else set()
    damaged = {item.identity: item.reason for item in runs.damaged}
    failed = _failures(layout)
    rows = []
    for identity, sweep in asked.items():
        if identity in finished:
            continue
        state, reason = "missing", "no record and no failure: not run, or still running"
        if identity in damaged:
            state, reason = "damaged", damaged[identity]
        elif identity in failed:
            state, reason = "failed", failed[identity]
        config = files.read_json(sweep.frozen(identity))
        rows.append({**settings(config), "id": identity, "state": state, "reason": reason})
    return rows


def _failures(layout: Layout) -> dict[str, str]:
    """The reason of the last failed attempt at every run that has no record."""
    reasons: dict[str, str] = {}
    if not layout.attempts.is_dir():
        return reasons
    for folder in sorted(layout.attempts.iterdir()):
        notes = sorted(folder.glob("*/failure.json"), key=lambda path: int(path.parent.name))
        if notes and not any((layout.runs / folder.name).glob("*/record.json")):
            reasons[folder.name] = str(files.read_json(notes[-1])["reason"])
    return reasons


def _frozen_anywhere(layout: Layout, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Settings of runs that any sweep froze."""
    result: dict[str, dict[str, Any]] = {}
    for folder in sweeps(layout):
        for identity in ids:
            path = folder / "runs" / f"{identity}.json"
            if identity not in result and path.exists():
                result[identity] = settings(files.read_json(path))
    return result
