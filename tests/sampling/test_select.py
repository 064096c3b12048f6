"""Selection of K of N: what each rule promises, for any scores."""

import itertools
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ablate.config.selection import RULES
from ablate.errors import ConfigError, DataError
from ablate.sampling.select import drawn_numbers, gap, select_indices

SCORES = st.lists(st.floats(-5, 5).map(lambda value: round(value, 1)), min_size=2, max_size=12)


def pick(scores, k, how, key=(0, "p"), **others):
    """A selection by any rule, rejection sampling at one temperature."""
    return select_indices(scores, k, how, key, rso_beta=others.pop("rso_beta", 0.5), **others)


@given(scores=SCORES, seed=st.integers(0, 9), how=st.sampled_from(list(RULES)))
def test_selections_are_nested_and_without_repeats(scores, seed, how):
    whole = pick(scores, len(scores), how, (seed, "p"))
    assert sorted(whole) == list(range(len(scores)))
    for k in range(1, len(scores)):
        assert pick(scores, k, how, (seed, "p")) == whole[:k]


@given(scores=SCORES, how=st.sampled_from(list(RULES)), seed=st.integers(0, 5), data=st.data())
def test_the_order_of_the_pool_changes_nothing(scores, how, seed, data):
    numbers = data.draw(st.permutations(range(len(scores))))
    k = data.draw(st.integers(1, len(scores)))
    key = (seed, "p")
    plain = pick(scores, k, how, key)
    moved = pick([scores[number] for number in numbers], k, how, key, names=numbers)
    assert [numbers[place] for place in moved] == plain


@given(scores=SCORES, data=st.data(), scale=st.sampled_from([1e-9, 1.0, 1e9]))
def test_no_subset_has_a_larger_variance(scores, data, scale):
    """Against every subset, in exact arithmetic."""

    def variance(subset):
        exact = [Fraction(scores[i] * scale) for i in subset]
        mean = sum(exact) / len(exact)
        return sum((value - mean) ** 2 for value in exact) / len(exact)

    k = data.draw(st.integers(1, min(len(scores), 6)))
    found = variance(pick(np.array(scores) * scale, k, "max_variance"))
    best = max(variance(subset) for subset in itertools.combinations(range(len(scores)), k))
    assert found >= best * (1 - Fraction(1, 10**9))


def test_the_largest_variance_takes_both_ends_as_the_scores_lie():
    assert pick([0.0, 1.0, 2.0, 9.0], 2, "max_variance") == [3, 0]
    assert pick([0.0, 1.0, 2.0, 9.0], 3, "max_variance") == [3, 0, 1]
    assert pick([0.0, 7.0, 8.0, 9.0], 3, "max_variance") == [3, 0, 2]


@given(scores=SCORES, data=st.data())
def test_best_of_n_is_the_top_of_the_ranking(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    chosen = [scores[place] for place in pick(scores, k, "best_of_n")]
    assert chosen == sorted(scores, reverse=True)[:k]


def rejection_probabilities(scores, k, beta):
    """Exact probability of every accepted sequence, by enumeration of all rounds."""
    result: dict[tuple[int, ...], float] = {}

    def walk(chosen, left, probability):
        if len(chosen) >= k:
            result[chosen[:k]] = result.get(chosen[:k], 0.0) + probability
            return
        best = max(scores[i] for i in left)
        chance = [np.exp((scores[i] - best) / beta) for i in left]
        for taken in itertools.product((True, False), repeat=len(left)):
            p = np.prod([c if t else 1 - c for c, t in zip(chance, taken, strict=True)])
            accepted = [i for i, t in zip(left, taken, strict=True) if t]
            if p == 0:
                continue
            rest = tuple(i for i in left if i not in accepted)
            orders = list(itertools.permutations(accepted))
            for order in orders:
                walk((*chosen, *order), rest, probability * p / len(orders))

    walk((), tuple(range(len(scores))), 1.0)
    return result


@pytest.mark.parametrize(("beta", "k"), [(0.5, 1), (0.5, 2), (0.2, 3), (5.0, 2)])
def test_rejection_sampling_follows_its_exact_distribution(beta, k):
    scores = [0.3, 1.0, 0.0, 0.7]
    exact = rejection_probabilities(scores, k, beta)
    assert sum(exact.values()) == pytest.approx(1)
    draws = 4000
    counts = dict.fromkeys(exact, 0)
    for number in range(draws):
        counts[tuple(pick(scores, k, "rso", (0, f"p{number}"), rso_beta=beta))] += 1
    likely = [sequence for sequence, p in exact.items() if draws * p >= 5]
    rare = draws - sum(counts[s] for s in likely), 1 - sum(exact[s] for s in likely)
    seen = [*(counts[s] for s in likely), rare[0]]
    expected = [*(draws * exact[s] for s in likely), draws * rare[1]]
    if rare[1] < 1e-12:
        seen, expected = seen[:-1], expected[:-1]
    assert stats.chisquare(seen, expected).pvalue > 1e-3


def test_rejection_sampling_lies_between_the_best_and_chance():
    scores = list(np.linspace(0, 3, 8))
    top = {7, 6, 5}
    cold = [set(pick(scores, 3, "rso", (s, "p"), rso_beta=1e-6)) for s in range(20)]
    assert all(chosen == top for chosen in cold)
    hot = [tuple(sorted(pick(scores, 3, "rso", (s, "p"), rso_beta=1e9))) for s in range(200)]
    assert len(set(hot)) > 40  # of 56


def test_noise_of_rejection_sampling_belongs_to_the_response():
    """A response that is no rival changes nothing for the others."""
    scores = [0.5, 1.0, 0.2, 0.8]
    more = [*scores, -1000.0]
    for seed in range(30):
        assert pick(scores, 3, "rso", (seed, "p")) == pick(more, 3, "rso", (seed, "p"))


def test_random_draws_are_uniform_and_read_no_score():
    counts = np.zeros(4)
    for seed in range(3000):
        chosen = select_indices(None, 2, "random", (seed, "p"), n=4)
        assert chosen == select_indices([3.0, 1.0, 2.0, 0.0], 2, "random", (seed, "p"))
        counts[chosen] += 1
    assert stats.chisquare(counts).pvalue > 1e-3


def test_drawn_numbers_favour_no_place():
    lowest = np.zeros(4)
    for prompt in range(2000):
        numbers = drawn_numbers((0, f"p{prompt}"), range(4))
        assert drawn_numbers((0, f"p{prompt}"), [2, 0]) == [numbers[2], numbers[0]]
        lowest[int(np.argmin(numbers))] += 1
    assert stats.chisquare(lowest).pvalue > 1e-3


def test_the_gap_is_from_best_to_worst():
    assert gap([0.5, -1.0, 2.0]) == 3.0
    assert gap([4.0]) == 0.0


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
    with pytest.raises(ConfigError, match="known are first, random, paper, best_worst"):
        select_indices([1.0], 1, "median", (0, "p"))


def test_selection_imports_no_torch():
    code = "import sys, ablate.sampling.select; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
