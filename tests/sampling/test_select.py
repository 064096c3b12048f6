"""Selection of K of N: what each rule promises, for any scores."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.errors import ConfigError, DataError
from ablate.sampling.select import select_indices

SCORES = st.lists(st.floats(-5, 5).map(lambda value: round(value, 1)), min_size=2, max_size=12)


@given(scores=SCORES, seed=st.integers(0, 9), data=st.data())
def test_selections_are_nested_and_without_repeats(scores, seed, data):
    how = data.draw(st.sampled_from(["first", "paper", "best_worst"]))
    whole = select_indices(scores, len(scores), how, (seed, "p"))
    assert sorted(whole) == list(range(len(scores)))
    for k in range(1, len(scores)):
        assert select_indices(scores, k, how, (seed, "p")) == whole[:k]


@given(scores=SCORES, seed=st.integers(0, 9))
def test_the_best_comes_first_and_the_worst_second(scores, seed):
    assert scores[select_indices(scores, 2, "paper", (seed, "p"))[0]] == max(scores)
    best, worst = select_indices(scores, 2, "best_worst", (seed, "p"))
    assert (scores[best], scores[worst]) == (max(scores), min(scores))


def test_first_needs_no_scores_but_a_count():
    assert select_indices(None, 3, "first", (0, "p"), n=5) == [0, 1, 2]
    with pytest.raises(ConfigError, match="number of responses"):
        select_indices(None, 3, "first", (0, "p"))
    with pytest.raises(ConfigError, match="needs a score"):
        select_indices(None, 3, "paper", (0, "p"), n=5)


def test_the_papers_rejected_response_is_uniform_over_the_others():
    scores = [0.0, 3.0, 1.0, 2.0]
    counts = np.zeros(4)
    for seed in range(3000):
        counts[select_indices(scores, 2, "paper", (seed, "p"))[1]] += 1
    assert counts[1] == 0
    # 3 cells of 1000 expected, standard deviation 26
    assert np.abs(counts[[0, 2, 3]] - 1000).max() < 4 * 26


def test_ties_favour_no_position():
    firsts = {select_indices([1.0, 1.0, 1.0], 1, "paper", (seed, "p"))[0] for seed in range(60)}
    assert firsts == {0, 1, 2}


def test_prompts_draw_independently():
    draws = {tuple(select_indices([0.0] * 6, 3, "paper", (0, f"p{i}"))) for i in range(20)}
    assert len(draws) > 10


@pytest.mark.parametrize("k", [0, 4])
def test_impossible_k_names_the_numbers(k):
    with pytest.raises(ConfigError, match=rf"K={k} .*'p7' has 3"):
        select_indices([1.0, 2.0, 3.0], k, "paper", (0, "p7"))


def test_bad_scores_and_unknown_rules():
    with pytest.raises(DataError, match="not finite"):
        select_indices([1.0, float("nan")], 1, "paper", (0, "p"))
    with pytest.raises(ConfigError, match="known are first, paper, best_worst"):
        select_indices([1.0], 1, "median", (0, "p"))


def test_selection_imports_no_torch():
    code = "import sys, ablate.sampling.select; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
