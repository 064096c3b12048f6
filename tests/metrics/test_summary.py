"""Means and intervals over prompts, checked against scipy and by counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ablate.metrics import mean_over_prompts, summarize, win_rate


def test_the_interval_is_the_t_interval_of_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 2, 50)
    estimate = mean_over_prompts(values, np.arange(50))
    low, high = stats.t.interval(0.95, 49, loc=values.mean(), scale=stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_answers_to_one_prompt_are_averaged_first() -> None:
    values = np.array([0.0, 10.0, 4.0, 4.0, 1.0])
    prompts = np.array(["a", "a", "b", "b", "c"])
    estimate = mean_over_prompts(values, prompts)
    assert estimate.n == 3
    assert estimate.mean == pytest.approx((5 + 4 + 1) / 3)
    assert estimate.se == pytest.approx(stats.sem([5, 4, 1]))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        prompt_means = rng.normal(0, 1, 20)
        values = np.repeat(prompt_means, 4) + rng.normal(0, 1, 80)
        estimate = mean_over_prompts(values, np.repeat(np.arange(20), 4))
        hits += estimate.low <= 0 <= estimate.high
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)


scores = st.lists(st.integers(0, 5), min_size=2, max_size=20)


@given(scores, st.integers(0, 2**31))
def test_win_rates_of_two_sides_add_to_one(ours: list[int], seed: int) -> None:
    theirs = np.random.default_rng(seed).integers(0, 6, len(ours))
    prompts = np.arange(len(ours))
    forth = win_rate(np.array(ours), theirs, prompts).mean
    back = win_rate(theirs, np.array(ours), prompts).mean
    assert forth + back == pytest.approx(1)


def test_ties_count_half() -> None:
    rate = win_rate(np.array([2, 1, 1, 0]), np.array([1, 1, 1, 1]), np.arange(4))
    assert rate.mean == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)


def test_undefined_values_are_an_error_and_not_dropped() -> None:
    with pytest.raises(ValueError, match="undefined"):
        mean_over_prompts(np.array([1.0, np.nan]), np.arange(2))


def test_the_summary_splits_and_names_what_it_averages() -> None:
    columns = {
        "split": np.array(["valid", "valid", "test", "test"], dtype=object),
        "prompt_id": np.array(["a", "b", "c", "d"], dtype=object),
        "judge_score": np.array([1.0, 3.0, 5.0, 7.0]),
        "baseline_score": np.array([0.0, 3.0, 6.0, 6.0]),
        "kl": np.array([0.1, 0.3, 0.2, 0.4]),
        "num_tokens": np.array([3, 5, 7, 9]),
        "truncated": np.array([False, False, True, False]),
    }
    result = summarize(columns)
    assert result["reward"]["valid"]["mean"] == 2.0
    assert result["reward"]["test"]["mean"] == 6.0
    assert result["win_rate"]["valid"]["mean"] == 0.75
    assert result["win_rate"]["test"]["mean"] == 0.5
    assert result["truncated"]["test"]["mean"] == 0.5
    assert result["kl"]["test"]["mean"] == pytest.approx(0.3)
    assert "train_reward" not in result
