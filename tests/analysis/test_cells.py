"""Cells over runs: intervals by scipy, and which settings a study varies."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.analysis import cells, varied_settings


def runs(**columns: list[object]) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    base = {
        "objective": ["dpo"] * count, "num_responses": [2] * count, "reward": ["gold"] * count,
        "shaping": ["none"] * count,
        "base_model": ["tiny"] * count, "dataset": ["lists"] * count,
        "collection": ["offline"] * count, "seed": list(range(count)), "status": ["done"] * count,
        "config.objective.beta": [0.1] * count, "config.training.lr": [1e-3] * count,
        "config.seed.value": list(range(count)), "config.runtime.threads": list(range(count)),
        "reward/test": np.linspace(0, 1, count),
    }  # fmt: skip
    return pd.DataFrame({**base, **columns})


def test_a_cell_is_its_runs_with_the_t_interval_over_them() -> None:
    values = [1.0, 2.0, 4.0]
    (cell,) = cells(runs(**{"reward/test": values}), ["objective"], ["reward/test"])
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert cell.seeds == 3
    assert cell.mean["reward/test"] == pytest.approx((low + high) / 2)
    assert cell.half["reward/test"] == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval() -> None:
    (cell,) = cells(runs(seed=[0]), ["objective"], ["reward/test"])
    assert math.isnan(cell.half["reward/test"])


def test_diverged_runs_are_counted_and_kept() -> None:
    frame = runs(status=["done", "diverged"], **{"reward/test": [1.0, 3.0]})
    (cell,) = cells(frame, [], ["reward/test"])
    assert (cell.seeds, cell.diverged, cell.mean["reward/test"]) == (2, 1, 2.0)


def test_seeds_threads_and_the_words_of_a_level_are_no_variation() -> None:
    assert varied_settings(runs(seed=[0, 1])) == []
    frame = runs(objective=["dpo", "ipo"], **{"config.objective.beta": [0.1, 0.2]})
    assert varied_settings(frame) == ["objective"]


def test_a_varied_setting_within_one_level_is_told() -> None:
    frame = runs(**{"config.objective.beta": [0.1, 0.2], "config.training.lr": [1e-3, 1e-4]})
    assert varied_settings(frame) == ["config.objective.beta", "config.training.lr"]


def test_a_setting_varied_within_a_varied_factor_is_told() -> None:
    frame = runs(objective=["dpo", "dpo", "ipo"], **{"config.objective.beta": [0.1, 0.2, 0.1]})
    assert varied_settings(frame) == ["objective", "config.objective.beta"]
