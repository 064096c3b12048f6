"""Whole runs made small: about two seconds after imports."""

from pathlib import Path

from ablate.config import legality
from ablate.config.compose import compose
from ablate.stages.complete import Outcome, complete
from ablate.stages.execute import Display
from ablate.stages.graph import RunPlan, plan
from ablate.stages.preflight import check_data
from ablate.store.layout import Layout

SMALL = [
    "dataset.sizes.sft=256", "dataset.sizes.reward=60", "dataset.sizes.train=24",
    "dataset.sizes.valid=8", "dataset.sizes.test=12", "dataset.sizes.ood=8",
    "dataset.pool.num_responses=4", "base_model.sft.steps=40", "base_model.sft.batch_size=32",
    "training.batch_size=8", "evaluation.num_valid=8", "evaluation.num_test=12",
    "evaluation.num_ood=8", "tracker=none", "runtime.threads=1",
]  # fmt: skip


def planned(store: Path, *words: str) -> RunPlan:
    """A small run as the command line plans it, checks included."""
    config = compose([*SMALL, f"results_dir={store}", *words])
    legality.check(config)
    check_data(config)
    return plan(config, Layout(store))


def run(store: Path, *words: str, display: Display | None = None) -> Outcome:
    """A small run, completed."""
    return complete(planned(store, *words), Layout(store), display)
