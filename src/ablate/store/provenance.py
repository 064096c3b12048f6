"""Where a result comes from: commit, versions, machine. Recorded once per run, never hashed."""

import functools
import hashlib
import os
import platform
import socket
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from ablate.store.layout import Layout
from ablate.store.secrets import scrub

PACKAGES = (
    "ablate",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "datasets",
    "hydra-core",
    "omegaconf",
    "numpy",
    "pandas",
    "pyarrow",
)


#: of a diff that is kept; generated files can make it very long
DIFF_BYTES = 2**20


def provenance() -> dict[str, Any]:
    """Commit and state of the working tree, package versions, host, processor, scheduler's ids.

    The source tree is looked at once per process, at the first call: call it when a process
    starts, for an edit that comes later does not change the code that runs. Plain data without
    remotes, command lines, home folders, or variables of the environment other than the ids.
    """
    return {**_origin()[0], "scheduler": _scheduler()}


def keep_diff(layout: Layout) -> None:
    """Leaves what the source tree differed in from its commit, as `diffs/<diff_sha256>.diff`.

    It is written once per store, without what looks like a key, readable by its owner alone; of
    a very long one the beginning.
    """
    found, diff = _origin()
    if not diff:
        return
    path = layout.diffs / f"{found['git']['diff_sha256']}.diff"
    if path.exists():
        return
    text = scrub(diff[:DIFF_BYTES].decode("utf-8", "replace"))
    if len(diff) > DIFF_BYTES:
        text += f"\n(cut here, at {DIFF_BYTES} of {len(diff)} bytes)\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _scheduler() -> dict[str, Any] | None:
    """Ids of the SLURM job that this process belongs to, None where there is no scheduler."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return {
        "job": job,
        "array_task": None if task is None else int(task),
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }


@functools.cache
def _origin() -> tuple[dict[str, Any], bytes]:
    """What does not change while a process lives, and the diff of its source tree."""
    git, diff = _git(Path(__file__).resolve().parents[3])
    found = {
        "git": git,
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    return found, diff


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path) -> tuple[dict[str, Any] | None, bytes]:
    """Commit, dirtiness and diff of the source tree; None where ablate runs from a wheel."""
    if not (folder / ".git").exists():
        return None, b""

    def git(*words: str) -> bytes:
        # only looks: a refreshed index of somebody's checkout would need its lock, which stays
        # behind where this process is killed
        command = ["git", "--no-optional-locks", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, check=False).stdout

    diff = git("diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD")
    state = git("status", "--porcelain").decode("utf-8", "replace")
    found = {
        "commit": git("rev-parse", "HEAD").decode().strip() or None,
        "dirty_files": sorted(line[3:] for line in state.splitlines() if line),
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None,
    }
    return found, diff


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
