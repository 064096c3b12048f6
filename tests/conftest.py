"""Shared by all tests: no network, few threads, and words that make a run small."""

import functools
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# CI judges every change by the same examples; on people's machines new ones are looked for
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("ABLATE_CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def run_ablate() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m ablate …` in a given directory, as a user would."""

    def run(
        cwd: Path, *words: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ablate", *words],
            cwd=cwd,
            env={**os.environ, "COLUMNS": "120", **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def ablate(
    tmp_path: Path, run_ablate: Callable[..., subprocess.CompletedProcess[str]]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m ablate …` in an empty directory."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    return functools.partial(run_ablate, folder)
