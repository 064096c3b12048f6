"""Results: pandas DataFrames over the store, a row per run, per step, per answer or per pair."""

from ablate.results.compact import compact
from ablate.results.load import (
    Damaged,
    Runs,
    load,
    load_curve,
    load_eval,
    load_pairs,
    load_train,
    read_answers,
    read_runs,
)
from ablate.results.sweeps import Study, load_study
from ablate.results.tables import TABLES, read_tables

__all__ = [
    "TABLES",
    "Damaged",
    "Runs",
    "Study",
    "compact",
    "load",
    "load_curve",
    "load_eval",
    "load_pairs",
    "load_study",
    "load_train",
    "read_answers",
    "read_runs",
    "read_tables",
]
