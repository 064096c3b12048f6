"""Where a result comes from: commit, versions, machine. Recorded once per run, never hashed."""

import functools
import hashlib
import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

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


@functools.cache
def provenance() -> dict[str, Any]:
    """Commit and state of the working tree, package versions, host and processor.

    Plain data without environment variables, remotes, command lines or home folders.
    """
    return {
        "git": _git(Path(__file__).resolve().parents[3]),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit and dirtiness of the source tree, None where ablate runs from a wheel."""
    if not (folder / ".git").exists():
        return None

    def git(*words: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False
        )
        return result.stdout

    diff = git("diff", "HEAD")
    return {
        "commit": git("rev-parse", "HEAD").strip() or None,
        "dirty_files": sorted(
            line[3:] for line in git("status", "--porcelain").splitlines() if line
        ),
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
