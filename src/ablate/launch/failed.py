"""Notes in a sweep's folder: what each run is called, and which stages failed and why."""

import time
from pathlib import Path
from typing import Any

from ablate.store.files import read_json, write_json
from ablate.store.secrets import scrub
from ablate.store.sweeps import read_sweep


def note(folder: Path, stage: str, reason: str, log: str) -> None:
    """Leaves word that a stage failed, so that the runs that need it do not try in vain."""
    found = {"reason": scrub(reason), "log": log, "time": time.time()}
    write_json(folder / "failed" / f"{stage}.json", found)


def find(folder: Path, stage: str) -> dict[str, Any] | None:
    """The note on a failed stage, or None."""
    path = folder / "failed" / f"{stage}.json"
    return dict(read_json(path)) if path.exists() else None


def clear(folder: Path) -> int:
    """Forgets all failures (for another try); how many there were."""
    notes = list((folder / "failed").glob("*.json"))
    for path in notes:
        path.unlink(missing_ok=True)
    return len(notes)


def forget(folder: Path, stage: str) -> None:
    """Forgets the failure of one stage, which is tried again."""
    (folder / "failed" / f"{stage}.json").unlink(missing_ok=True)


def name_of(folder: Path, identity: str) -> str:
    """What a run of the sweep is called."""
    return read_sweep(folder).names[identity]
