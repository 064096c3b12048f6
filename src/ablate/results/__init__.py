"""Results: pandas DataFrames over the store, a row per run, per step or per answer."""

from ablate.results.load import (
    Damaged,
    Runs,
    load,
    load_curve,
    load_eval,
    load_train,
    read_answers,
    read_runs,
)
from ablate.results.sweeps import Study, load_study

__all__ = [
    "Damaged",
    "Runs",
    "Study",
    "load",
    "load_curve",
    "load_eval",
    "load_study",
    "load_train",
    "read_answers",
    "read_runs",
]
