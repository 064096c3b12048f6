"""Normalisation of scores and agreement of sources, by definition and by brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.errors import DataError
from ablate.rewards.agreement import pair_accuracy
from ablate.rewards.normalize import score_scale

PROMPTS = np.repeat(np.arange(5), 4)


def test_the_scale_is_the_mean_standard_deviation_within_prompts() -> None:
    scores = np.random.default_rng(0).normal(size=20)
    wanted = np.mean([scores[p == PROMPTS].std(ddof=1) for p in range(5)])
    assert score_scale(scores, PROMPTS) == pytest.approx(wanted)


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
def test_normalised_scores_do_not_depend_on_a_sources_units(
    seed: int, factor: float, shift: float
) -> None:
    scores = np.random.default_rng(seed).normal(size=20)
    offsets = np.random.default_rng(seed + 1).normal(size=5)[PROMPTS] * 30 + shift
    one = score_scale(scores, PROMPTS)
    other = score_scale(factor * scores + offsets, PROMPTS)
    assert other == pytest.approx(factor * one, rel=1e-6)


def test_a_source_without_an_opinion_is_refused() -> None:
    with pytest.raises(DataError, match="same score"):
        score_scale(np.repeat([1.0, 2, 3, 4, 5], 4), PROMPTS)
    with pytest.raises(DataError, match="two scored responses"):
        score_scale(np.arange(3.0), np.arange(3))


@given(st.integers(0, 10_000))
def test_pair_accuracy_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, truth = rng.integers(0, 4, 20), rng.integers(0, 4, 20)
    right = total = 0.0
    for i, j in itertools.combinations(range(20), 2):
        if PROMPTS[i] != PROMPTS[j] or truth[i] == truth[j]:
            continue
        total += 1
        agree = (scores[i] - scores[j]) * (truth[i] - truth[j])
        right += 1 if agree > 0 else 0.5 if agree == 0 else 0
    found = pair_accuracy(scores, truth, PROMPTS)
    if total:
        assert found == pytest.approx(right / total)
    else:
        assert np.isnan(found)
