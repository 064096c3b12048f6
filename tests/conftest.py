"""Shared by all tests: no network, few threads, and words that make a run small."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

#: a whole run in about two seconds after imports
SMALL = [
    "dataset.sizes.sft=256", "dataset.sizes.reward=60", "dataset.sizes.train=24",
    "dataset.sizes.valid=8", "dataset.sizes.test=12", "dataset.sizes.ood=8",
    "dataset.pool.num_responses=4", "base_model.sft.steps=40", "base_model.sft.batch_size=32",
    "training.batch_size=8", "evaluation.num_valid=8", "evaluation.num_test=12",
    "evaluation.num_ood=8", "tracker=none", "runtime.threads=1",
]  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """Overrides of a small run that writes to a store of its own."""
    return [*SMALL, f"results_dir={tmp_path / 'store'}"]


@pytest.fixture
def ablate(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m ablate …` in an empty directory, as a user would."""
    folder = tmp_path / "cwd"
    folder.mkdir()

    def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ablate", *words],
            cwd=folder,
            env={**os.environ, "COLUMNS": "120", **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
