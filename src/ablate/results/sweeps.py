"""Sweeps as the store knows them: which runs were asked for, and what became of each."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.errors import StoreError
from ablate.results.load import Damaged, Runs, read_runs
from ablate.results.rows import settings
from ablate.store import files
from ablate.store.layout import Layout


@dataclass(frozen=True)
class Study:
    """Runs to make a table of.

    frame: the finished runs, a row each, as `results.load`.
    lacking: runs that were asked for and have no record: their settings, id, `state` (failed,
        damaged or missing) and `reason`.
    settings: what the sweep fixed about its analysis before it ran (baseline, margin, …).
    """

    frame: pd.DataFrame
    lacking: pd.DataFrame
    damaged: list[Damaged]
    name: str | None
    settings: dict[str, Any]
    #: the command lines that started the sweep, without `ablate`
    commands: tuple[str, ...] = ()


def sweep_folders(layout: Layout, name: str) -> list[Path]:
    """The frozen sweeps that `name` stands for, oldest first.

    That is the name of a sweep file (every sweep that was started as `+sweep=NAME`), or the
    beginning of a frozen sweep's identity.

    Raises:
        StoreError: none, or several identities; lists what there is.
    """
    known = {}
    if layout.sweeps.is_dir():
        for folder in sorted(layout.sweeps.iterdir(), key=lambda path: path.stat().st_mtime):
            if (folder / "sweep.json").exists():
                known[folder] = files.read_json(folder / "sweep.json")
    named = {folder: names(content) for folder, content in known.items()}
    found = [folder for folder in known if name in named[folder]]
    if found:
        return found
    begins = [folder for folder in known if folder.name.startswith(name)]
    if len(begins) == 1:
        return begins
    listed = [folder.name + "".join(f" ({title})" for title in named[folder]) for folder in known]
    told = "; there are: " + ", ".join(listed) if listed else "; it holds no sweep at all"
    if begins:
        raise StoreError(f"'{name}' fits {len(begins)} sweeps{told}")
    raise StoreError(f"no sweep '{name}' in {layout.root.resolve()}{told}")


def copy_sweeps(layout: Layout, target: Layout, names: list[str] | None) -> None:
    """Hands on what was asked for: frozen sweeps, with the settings of runs that did not finish.

    Args:
        names: as for `sweep_folders`; None copies all.
    """
    if names is None:
        folders = sorted(layout.sweeps.iterdir()) if layout.sweeps.is_dir() else []
    else:
        folders = [folder for name in names for folder in sweep_folders(layout, name)]
    reasons = _failures(layout)
    for folder in folders:
        if not (folder / "sweep.json").exists():
            continue
        content = files.read_json(folder / "sweep.json")
        files.write_json(target.sweeps / folder.name / "sweep.json", content)
        there = read_runs(layout.root, [str(identity) for identity in content["runs"]]).frame
        finished = set(there["id"]) if len(there) else set()
        for identity in content["runs"]:
            if identity in finished:
                continue
            config = files.read_json(folder / "runs" / f"{identity}.json")
            files.write_json(
                target.sweeps / folder.name / "runs" / f"{identity}.json",
                {**config, "results_dir": "results"},
            )
            if identity in reasons:
                attempt = target.attempts / str(identity) / "1"
                files.write_json(attempt / "failure.json", {"reason": reasons[identity]})


def names(content: dict[str, Any]) -> list[str]:
    """The names of sweep files in a frozen sweep's command line."""
    words = [str(word) for word in content["overrides"]]
    return [
        value
        for key, _, value in (word.partition("=") for word in words)
        if key.lstrip("+") == "sweep"
    ]


def typed(content: dict[str, Any]) -> str:
    """The words of a frozen sweep's command line, without what its file added and local paths."""
    words = [str(word) for word in content["overrides"]]
    kept = [w for w in words if not w.startswith(("analysis.", "results_dir=", "hydra."))]
    return " ".join(shlex.quote(word) for word in [*kept, "-m"])


def analysis_of(content: dict[str, Any]) -> dict[str, Any]:
    """What the sweep file fixed about its table: rows, cols, metrics (lists), baseline, margin."""
    found: dict[str, Any] = {}
    for word in content["overrides"]:
        key, _, value = str(word).partition("=")
        if key.startswith("analysis."):
            name = key.removeprefix("analysis.")
            found[name] = value.split(",") if name in ("rows", "cols", "metrics") else value
    return found


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
    asked: dict[str, Path] = {}
    analysis: dict[str, Any] = {}
    commands = []
    for folder in sweep_folders(layout, sweep):
        content = files.read_json(folder / "sweep.json")
        commands.append(typed(content))
        asked |= {str(identity): folder for identity in content["runs"]}
        analysis |= analysis_of(content)
    runs = read_runs(root, asked)
    lacking = _lacking(layout, asked, runs)
    return Study(runs.frame, lacking, runs.damaged, sweep, analysis, tuple(dict.fromkeys(commands)))


def _lacking(layout: Layout, asked: dict[str, Path], runs: Runs) -> pd.DataFrame:
    """Runs without a usable record, with the settings that were frozen for them."""
    finished = set(runs.frame["id"]) if len(runs.frame) else set()
    damaged = {item.identity: item.reason for item in runs.damaged}
    failed = _failures(layout)
    rows = []
    for identity, folder in asked.items():
        if identity in finished:
            continue
        state, reason = "missing", "no record and no failure: not run, or still running"
        if identity in damaged:
            state, reason = "damaged", damaged[identity]
        elif identity in failed:
            state, reason = "failed", failed[identity]
        config = files.read_json(folder / "runs" / f"{identity}.json")
        rows.append({**settings(config), "id": identity, "state": state, "reason": reason})
    return pd.DataFrame(rows)


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
    if not layout.sweeps.is_dir():
        return result
    for folder in sorted(layout.sweeps.iterdir()):
        for identity in ids:
            path = folder / "runs" / f"{identity}.json"
            if identity not in result and path.exists():
                result[identity] = settings(files.read_json(path))
    return result
