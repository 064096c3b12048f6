"""Reward sources recomputed by hand, and the object that normalises them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.errors import DataError
from ablate.rewards.agreement import calibration_error, within_prompt_correlation
from ablate.rewards.normalize import fit_normalizer
from ablate.rewards.sources import (
    EnsembleSource,
    FormatScorer,
    KnownScores,
    LengthScorer,
    PairwiseSource,
    PatternVerifier,
    ScalarSource,
    SumSource,
    VectorSource,
)
from ablate.rewards.table import Answer, TrainingReward

PROMPTS = np.repeat(np.arange(5), 4)


def answers_to(values: Sequence[float]) -> list[Answer]:
    """Four answers to each prompt, each of whose text is its number."""
    return [
        Answer(f"p{place // 4}", f"prompt {place // 4}", [1], str(value), [3] * (place % 4 + 1))
        for place, value in enumerate(values)
    ]


class Reads:
    """Scores an answer by the number it says, times a factor."""

    def __init__(self, factor: float = 1.0, offset: float = 0.0) -> None:
        self.factor, self.offset = factor, offset

    def score(self, answers: Sequence[Answer]) -> np.ndarray:
        return np.array([self.factor * float(a.response) + self.offset for a in answers])


def scalar(how: Any = "none", **change: float) -> TrainingReward:
    return TrainingReward(ScalarSource(Reads(**change)), how, 3.0)


VALUES = np.random.default_rng(0).normal(size=20).round(3)
FRESH = np.random.default_rng(1).normal(size=8).round(3)


def test_new_answers_are_divided_by_the_number_of_the_pool() -> None:
    reward = scalar("within_prompt_sd", factor=7.0)
    table = reward.fit(answers_to(VALUES))
    sd = np.mean([7 * VALUES[p == PROMPTS].std(ddof=1) for p in range(5)])
    assert table.reward is not None
    np.testing.assert_allclose(table.reward, 7 * VALUES / sd)
    online = reward.score(answers_to(FRESH)).reward
    np.testing.assert_allclose(online, 7 * FRESH / sd)
    again = scalar("within_prompt_sd", factor=7.0)
    again.restore(reward.state())
    np.testing.assert_array_equal(again.score(answers_to(FRESH)).reward, online)
    np.testing.assert_array_equal(again.alone(answers_to(FRESH)).reward, online)


def test_a_reward_that_was_not_fitted_scores_nothing() -> None:
    with pytest.raises(DataError, match="not fitted"):
        scalar().score(answers_to(FRESH))


def test_normalisers_by_their_definitions() -> None:
    def normal(how: Any) -> np.ndarray:
        return fit_normalizer(VALUES, PROMPTS, how, 1.0).apply(VALUES, PROMPTS)

    sd = np.mean([VALUES[p == PROMPTS].std(ddof=1) for p in range(5)])
    np.testing.assert_array_equal(normal("none"), VALUES)
    np.testing.assert_allclose(normal("clip"), np.clip((VALUES - VALUES.mean()) / sd, -1, 1))
    assert (np.abs(normal("clip")) == 1).any()
    for p in range(5):
        rows = p == PROMPTS
        own = VALUES[rows]
        np.testing.assert_allclose(normal("centre")[rows], own - own.mean())
        standard = (own - own.mean()) / own.std(ddof=1)
        np.testing.assert_allclose(normal("z_score")[rows], standard)
        expected = [np.mean([np.sign(x - y) for y in own]) for x in own]
        # the rank is the share of the others that are beaten
        np.testing.assert_allclose(normal("rank")[rows], (np.array(expected) * 4 / 3 + 1) / 2)


def test_ties_and_prompts_without_spread() -> None:
    values, prompts = np.array([2.0, 2.0, 1.0, 5.0, 5.0, 7.0]), np.array([0, 0, 0, 1, 1, 2])
    ranks = fit_normalizer(values, prompts, "rank", 3.0).apply(values, prompts)
    np.testing.assert_allclose(ranks, [0.75, 0.75, 0, 0.5, 0.5, 0.5])
    scores = fit_normalizer(values, prompts, "z_score", 3.0).apply(values, prompts)
    np.testing.assert_array_equal(scores[3:], 0)


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 50), st.floats(-20, 20))
def test_per_prompt_normalisers_know_no_units(seed: int, factor: float, offset: float) -> None:
    values = np.random.default_rng(seed).normal(size=20)
    for how in ("z_score", "rank"):
        one = fit_normalizer(values, PROMPTS, how, 3.0).apply(values, PROMPTS)  # type: ignore[arg-type]
        units = factor * values + offset
        two = fit_normalizer(units, PROMPTS, how, 3.0).apply(units, PROMPTS)  # type: ignore[arg-type]
        np.testing.assert_allclose(one, two, atol=1e-8)


@pytest.mark.parametrize("how", ["within_prompt_sd", "centre", "z_score", "clip", "rank"])
def test_a_source_without_an_opinion_is_refused_whatever_the_normaliser(how: Any) -> None:
    with pytest.raises(DataError, match="same score"):
        scalar(how, factor=0.0).fit(answers_to(VALUES))


@pytest.mark.parametrize(
    ("combine", "weight", "expected"),
    [
        ("mean", 0.0, lambda m: m.mean(axis=1)),
        ("min", 0.0, lambda m: m.min(axis=1)),
        ("mean_minus_sd", 0.5, lambda m: m.mean(axis=1) - 0.5 * m.std(axis=1, ddof=1)),
    ],
)
def test_ensembles_centre_and_normalise_each_member_first(
    combine: Any, weight: float, expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    parts = {
        "one": scalar("within_prompt_sd", factor=3.0, offset=100.0),
        "two": scalar("within_prompt_sd", factor=-0.1),
        "three": scalar("none", factor=2.0, offset=-5.0),
    }
    reward = TrainingReward(EnsembleSource(parts, combine, weight), "within_prompt_sd", 3.0)
    table = reward.fit(answers_to(VALUES))
    unit = np.mean([VALUES[p == PROMPTS].std(ddof=1) for p in range(5)])
    own = np.stack([VALUES / unit, -VALUES / unit, 2 * VALUES], axis=1)
    combined = expected(own - own.mean(axis=0))
    sd = np.mean([combined[p == PROMPTS].std(ddof=1) for p in range(5)])
    np.testing.assert_allclose(table.reward, combined / sd, atol=1e-12)
    # new answers are centred and divided by the pool's numbers, not by their own
    fresh = np.stack([FRESH / unit, -FRESH / unit, 2 * FRESH], axis=1)
    online = reward.score(answers_to(FRESH))
    np.testing.assert_allclose(online.reward, expected(fresh - own.mean(axis=0)) / sd, atol=1e-12)
    np.testing.assert_allclose(online.extra_rewards, (fresh - own.mean(axis=0)) / sd, atol=1e-12)


def test_sums_and_vectors_weigh_their_terms() -> None:
    def parts() -> dict[str, TrainingReward]:
        return {
            "quality": scalar("none", factor=2.0),
            "length": TrainingReward(ScalarSource(LengthScorer(None)), "none", 3.0),
        }

    weights = {"quality": 0.5, "length": -3.0}
    lengths = np.tile([1, 2, 3, 4], 5)
    summed = TrainingReward(SumSource(parts(), weights), "none", 3.0).fit(answers_to(VALUES))
    np.testing.assert_allclose(summed.reward, VALUES - 3.0 * lengths)
    vector = TrainingReward(VectorSource(parts(), weights), "none", 3.0).fit(answers_to(VALUES))
    np.testing.assert_allclose(vector.reward, VALUES)
    np.testing.assert_allclose(vector.extra_rewards, -3.0 * lengths[:, None])


def test_a_vector_may_begin_with_an_order_alone() -> None:
    first = TrainingReward(ScalarSource(Reads(), order_only=True), "none", 3.0)
    source = VectorSource({"order": first, "score": scalar()}, {"order": 1.0, "score": 2.0})
    table = TrainingReward(source, "none", 3.0).fit(answers_to(VALUES))
    assert table.reward is None
    np.testing.assert_array_equal(table.rank, VALUES)
    np.testing.assert_allclose(table.extra_rewards, 2 * VALUES[:, None])


@settings(deadline=None)
@given(st.integers(0, 500), st.sampled_from(["sign", "sigmoid"]))
def test_pairwise_probabilities(seed: int, rule: Any) -> None:
    values = np.random.default_rng(seed).integers(0, 4, 20).astype(float)
    values[0], values[1] = 0, 3
    part = scalar("none", factor=2.0)
    reward = TrainingReward(PairwiseSource(part, rule, 0.5), "none", 3.0)
    # rows in any order: a row's rivals are those of its prompt, in their order
    order = np.random.default_rng(seed + 1).permutation(20)
    answers = [answers_to(values)[place] for place in order]
    table = reward.fit(answers)
    assert table.win_probs is not None
    assert table.reward is not None
    for row, place in enumerate(order):
        rivals = [p for p in order if p // 4 == place // 4]
        for column, rival in enumerate(rivals):
            gap = 2 * (values[place] - values[rival])
            wanted = 1 / (1 + np.exp(-gap / 0.5)) if rule == "sigmoid" else (np.sign(gap) + 1) / 2
            assert table.win_probs[row][column] == pytest.approx(wanted)
        others = [p for p, r in zip(table.win_probs[row], rivals, strict=True) if r != place]
        assert table.reward[row] == pytest.approx(np.mean(others))


def test_known_scores_answer_for_the_pool_and_others_for_the_rest() -> None:
    stored = Answer("p0", "prompt", [1], "7", [3], index=2)
    new = Answer("p0", "prompt", [1], "9", [3])
    scorer = KnownScores({("p0", 2): 5.0}, Reads())
    np.testing.assert_array_equal(scorer.score([new, stored]), [9.0, 5.0])
    with pytest.raises(DataError, match="nothing of the new answer '9'"):
        KnownScores({("p0", 2): 5.0}, None).score([stored, new])


def test_lengths_formats_and_patterns() -> None:
    def say(text: str, tokens: int = 3) -> Answer:
        return Answer("p", "2 + 2", [1], text, [3] * tokens)

    np.testing.assert_array_equal(LengthScorer(None).score([say("x", 3), say("y", 5)]), [3, 5])
    np.testing.assert_array_equal(LengthScorer(4).score([say("x", 3), say("y", 6)]), [-1, -2])
    found = FormatScorer(r"^so .* answer \d+$").score([say("so 2 answer 4"), say("answer 4")])
    np.testing.assert_array_equal(found, [1, 0])
    verifier = PatternVerifier(r"answer (\d+)", {"p": "4"})
    said = [say("answer 5 no answer 4"), say("answer 4 no answer 5"), say("4"), say("answer  4")]
    np.testing.assert_array_equal(verifier.score(said), [1, 0, 0, 0])
    with pytest.raises(DataError, match=r"'3 \+ 3' has no reference"):
        verifier.score([Answer("q", "3 + 3", [1], "answer 6", [3])])


def test_a_reward_that_is_not_finite_is_refused_with_its_prompt() -> None:
    with pytest.raises(DataError, match="'prompt 1' is nan"):
        scalar().fit(answers_to([0.0, 1, 2, 3, float("nan"), 1, 2, 3]))


def test_calibration_error_in_closed_form() -> None:
    """Two prompts of two responses, gaps of 0.6 and 3; the second is wrong."""
    scores, truth = np.array([0.6, 0.0, 3.0, 0.0]), np.array([1, 0, 0, 1])
    low, high = (1 / (1 + np.exp(-gap)) for gap in (0.6, 3.0))
    assert calibration_error(scores, truth, np.array([0, 0, 1, 1])) == pytest.approx(
        (abs(1 - low) + abs(0 - high)) / 2
    )


def test_a_calibrated_source_has_little_calibration_error_and_an_overconfident_one_much() -> None:
    rng = np.random.default_rng(0)
    gaps = rng.normal(size=20_000) * 1.5
    wins = rng.random(20_000) < 1 / (1 + np.exp(-gaps))
    prompts = np.repeat(np.arange(20_000), 2)
    scores = np.stack([gaps, np.zeros_like(gaps)], axis=1).ravel()
    truth = np.stack([wins, ~wins], axis=1).ravel().astype(int)
    assert calibration_error(scores, truth, prompts) < 0.02
    assert calibration_error(4 * scores, truth, prompts) > 0.1


def test_correlations_are_within_prompts() -> None:
    """A source that knows only which prompt is easy knows nothing."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20) + 100 * PROMPTS
    assert within_prompt_correlation(VALUES + 50 * PROMPTS, VALUES, PROMPTS) == pytest.approx(1)
    expected = [np.corrcoef(VALUES[p == PROMPTS], truth[p == PROMPTS])[0, 1] for p in range(5)]
    found = within_prompt_correlation(VALUES, truth, PROMPTS)
    assert found == pytest.approx(np.mean(expected))
    curved = np.exp(3 * VALUES)
    assert within_prompt_correlation(curved, VALUES, PROMPTS, ranks=True) == pytest.approx(1)
    assert within_prompt_correlation(curved, VALUES, PROMPTS) < 0.999
