"""Label models against their closed forms: pair marginals, lengths, shares, and what may matter."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.config.dataset import Labels
from ablate.datasets.draws import unit_hash
from ablate.datasets.label_models import Labelled, drawn_annotator, gumbel, label, within_sd

NEUTRAL = {"flip_rate": 0.0, "temperature": 0.0, "length_bias": 0.0, "annotators": []}
SCORES = np.array([0.0, 1.0, 1.0, 2.5])
TEXTS = ["aa", "bbbb", "cc", "dddddd"]


def model(**values: object) -> Labels:
    return Labels.model_validate(NEUTRAL | values)


def apply(
    config: Labels,
    prompts: int = 1,
    scores: Sequence[float] = SCORES,
    texts: Sequence[str] = TEXTS,
    seed: int = 0,
) -> Labelled:
    """The same responses to every prompt: only draws keyed by the prompt differ."""
    k = len(scores)
    return label(
        config,
        seed,
        [f"p{i}" for i in range(prompts) for _ in range(k)],
        list(range(k)) * prompts,
        list(texts) * prompts,
        np.tile(np.asarray(scores, dtype=float), prompts),
        lambda text: text.count("d"),
    )


def frequency(made: Labelled, i: int, j: int, k: int = 4) -> float:
    table = made.label.reshape(-1, k)
    return float((table[:, i] > table[:, j]).mean())


def four_sigma(p: float, n: int) -> float:
    return 4 * sqrt(p * (1 - p) / n)


def test_neutral_values_are_the_scores_themselves() -> None:
    config = model()
    assert config.clean
    assert np.array_equal(apply(config, 3).label, np.tile(SCORES, 3))
    for one in ({"flip_rate": 0.1}, {"temperature": 1}, {"length_bias": -1}):
        assert not model(**one).clean


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.5])
def test_every_untied_comparison_is_wrong_with_exactly_the_flip_rate(rate: float) -> None:
    n = 4000
    made = apply(model(flip_rate=rate), n)
    for worse, better in [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]:
        assert abs(frequency(made, worse, better) - rate) < four_sigma(rate, n)
        assert abs(frequency(made, better, worse) - (1 - rate)) < four_sigma(rate, n)
    # equal labels stay equal, and no value comes in that was not there
    table = made.label.reshape(-1, 4)
    assert (table[:, 1] == table[:, 2]).all()
    assert {frozenset(row) for row in table.tolist()} == {frozenset(SCORES.tolist())}


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_gives_bradley_terry_marginals_and_plackett_luce_firsts(
    temperature: float,
) -> None:
    n = 4000
    made = apply(model(temperature=temperature), n)
    for i in range(4):
        for j in range(4):
            if i == j:
                continue
            p = 1 / (1 + np.exp(-(SCORES[i] - SCORES[j]) / temperature))
            assert abs(frequency(made, i, j) - p) < four_sigma(p, n)
    weights = np.exp(SCORES / temperature)
    first = np.bincount(made.label.reshape(-1, 4).argmax(1), minlength=4) / n
    for observed, p in zip(first, weights / weights.sum(), strict=True):
        assert abs(observed - p) < four_sigma(p, n)
    # the noise has mean 0 and the Gumbel distribution's standard deviation
    noise = (made.label - np.tile(SCORES, n)) / temperature
    assert abs(noise.mean()) < 4 * np.pi / sqrt(6) / sqrt(4 * n)
    assert noise.std() == pytest.approx(np.pi / sqrt(6), rel=0.05)


def test_the_gumbel_numbers_are_finite_for_every_hash() -> None:
    edge = gumbel(np.array([0.0, 0.5, 1 - 2.0**-53, unit_hash("x")]))
    assert np.isfinite(edge).all()
    assert edge[1] == pytest.approx(-np.log(np.log(2)))


def test_a_standard_deviation_of_length_buys_so_many_of_score() -> None:
    rng = np.random.default_rng(0)
    prompts = [f"p{i}" for i in range(50) for _ in range(4)]
    scores = rng.normal(size=200) * 3
    texts = ["x" * int(n) for n in rng.integers(1, 80, 200)]
    index = list(range(4)) * 50
    lengths = np.array([len(text) for text in texts])
    made = label(model(length_bias=0.7), 0, prompts, index, texts, scores, lambda _: 0)
    added = made.label - scores
    # by another route: mean of the prompts' variances, as every prompt has four responses
    unit = sqrt(scores.reshape(50, 4).var(axis=1, ddof=1).mean())
    spread = sqrt(lengths.reshape(50, 4).var(axis=1, ddof=1).mean())
    assert within_sd(scores, prompts) == pytest.approx(unit)
    assert made.per_character == pytest.approx(0.7 * unit / spread)
    np.testing.assert_allclose(added, 0.7 * unit / spread * (lengths - lengths.mean()))
    assert np.allclose(apply(model(length_bias=1.0), 2, texts=["a"] * 4).label, np.tile(SCORES, 2))


GROUPS = [
    {"name": "terse", "share": 3, "length": -1.0, "nuisance": 0.0, "taste": 0.0},
    {"name": "showy", "share": 1, "length": 0.0, "nuisance": 2.0, "taste": 0.5},
]


def test_annotator_groups_have_their_shares_and_their_own_utilities() -> None:
    n = 4000
    config = model(annotators=GROUPS)
    made = apply(config, n)
    assert set(made.utilities) == {"terse", "showy"}
    share = np.mean([name == "terse" for name in made.annotator])
    assert abs(share - 0.75) < four_sigma(0.75, n)
    # what a prompt's label is, its annotator says
    for row in range(0, 40):
        assert made.label[row] == made.utilities[made.annotator[row]][row]
    assert all(len(set(made.annotator[4 * i : 4 * i + 4])) == 1 for i in range(n))
    lengths = np.array([2, 4, 2, 6])
    unit, spread = SCORES.std(ddof=1), lengths.std(ddof=1)
    expected = SCORES - unit * (lengths - lengths.mean()) / spread
    np.testing.assert_allclose(made.utilities["terse"][:4], expected)
    show = np.array([0, 0, 0, 6])
    liked = 2.0 * (show - show.mean()) / show.std(ddof=1)
    taste = (made.utilities["showy"].reshape(-1, 4) - SCORES) / unit - liked
    assert abs(taste.mean()) < 4 * 0.5 / sqrt(4 * n)
    assert taste.std() == pytest.approx(0.5, rel=0.05)
    # a taste is the group's, whatever the seed
    again = apply(config, n, seed=1)
    assert np.array_equal(again.utilities["showy"], made.utilities["showy"])
    assert again.annotator != made.annotator
    assert drawn_annotator(config.annotators, 0, "p0") == made.annotator[0]


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), min_size=5, max_size=9),
    st.permutations(range(9)),
    st.sampled_from([{"flip_rate": 0.4}, {"temperature": 0.8}, {"annotators": GROUPS},
                     {"length_bias": 1.0, "temperature": 0.3, "flip_rate": 0.2}]),
    st.integers(0, 20),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_neither_pool_size_nor_order_moves_a_comparison(
    scores: list[float], order: list[int], values: dict[str, object], seed: int
) -> None:
    texts = ["word " * (1 + (7 * k) % 5) + f"number {k}" for k in range(len(scores))]
    config = model(**values)

    def labels(rows: list[int]) -> dict[int, float]:
        made = label(config, seed, ["p"] * len(rows), rows, [texts[r] for r in rows],
                     np.array([scores[r] for r in rows]), lambda text: len(text))  # fmt: skip
        return dict(zip(rows, made.label.tolist(), strict=True))

    every = list(range(len(scores)))
    whole = labels(every)
    shuffled = labels([row for row in order if row in every])
    assert shuffled == whole
    # the smaller pool holds the first responses, from which the units are taken
    smaller = labels(every[:-1])
    ranked = sorted(smaller, key=lambda row: (smaller[row], row))
    for low, high in pairwise(ranked):
        assert np.sign(whole[high] - whole[low]) == np.sign(smaller[high] - smaller[low])


def test_equal_texts_get_equal_labels() -> None:
    made = apply(model(temperature=1.0, flip_rate=0.3), 20, [1, 1, 2, 2], ["a", "a", "b", "b"])
    table = made.label.reshape(-1, 4)
    assert (table[:, 0] == table[:, 1]).all()
    assert (table[:, 2] == table[:, 3]).all()
    assert len(set(table[:, 0].tolist())) == 20
