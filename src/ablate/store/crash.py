"""Named points at which a test may kill this process: before and after whatever must be atomic.

`ABLATE_CRASH_POINTS` names a folder with a file for every point that is armed. The process that
reaches an armed point removes the file (so one process dies, and only once) and ends by SIGKILL.
Without the variable nothing happens.
"""

import os
import signal
from pathlib import Path

VARIABLE = "ABLATE_CRASH_POINTS"

POINTS = (
    # files and folders that come to be by a rename
    "json-before-rename",
    "json-after-rename",
    "publish-before-rename",
    "publish-after-rename",
    # claims
    "claim-before-rename",
    "claim-after-rename",
    "claim-before-release",
    "claim-half-released",
    "claim-released",
    "takeover-before",
    "takeover-after",
    # stages
    "stage-before-claim",
    "stage-claimed",
    "stage-computed",
    "stage-manifest-written",
    "stage-published",
    "damaged-before-rename",
    "damaged-after-rename",
    "removal-before-rename",
    "removal-after-rename",
    # checkpoints and trainings that were saved
    "checkpoint-before-rename",
    "checkpoint-after-rename",
    "saved-trainer-moved",
    "saved-state-written",
    "saved-after-rename",
    "saved-older-removed",
    # attempts and records
    "attempt-made",
    "failure-written",
    "record-before-json",
    "record-json-written",
    "record-manifest-written",
    "record-published",
    # sweeps, and what judges said
    "sweep-run-frozen",
    "sweep-frozen",
    "verdicts-before-rename",
    "verdicts-after-rename",
    "verdicts-before-merge",
    "verdicts-after-merge",
)


def point(name: str) -> None:
    """Ends this process here and now, if a test armed the point."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    if name not in POINTS:
        raise ValueError(f"there is no crash point {name!r}; add it to ablate.store.crash.POINTS")
    try:
        os.unlink(Path(folder) / name)
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def arm(folder: Path, *names: str) -> None:
    """Arms points: the next process that reaches one dies there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
