"""Length-aware shapers against their published formulas, by hand, and what they remember."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.config.levels import level_names, read_level
from ablate.config.shaping import ALONG_TRAINING, ShapingConfig
from ablate.errors import DataError
from ablate.rewards.shaping import Shaper, budget_at, top_share
from ablate.rewards.sources import ScalarSource
from ablate.rewards.table import Answer, TrainingReward

LEVELS = level_names("shaping")


def shaper(name, **changes):
    return Shaper(ShapingConfig(**{**read_level("shaping", name), **changes}))


def shaped(tool, correct, lengths, prompt="p", step=0):
    return tool.shape([prompt] * len(correct), np.array(correct, float), lengths, step).tolist()


# -- HAPO: the table of cases of arXiv 2505.11225


def test_hapo_without_history_gives_the_verdict():
    assert shaped(shaper("hapo"), [1, 0, 1], [5, 5, 9]) == [1, 0, 1]


@pytest.mark.parametrize(
    ("correct", "length", "expected"),
    [
        (1, 4, 1 + math.cos(math.pi / 4)),  # half of the history of 8: a bonus
        (1, 8, 1.0),  # as long: nothing
        (1, 10, 1 + math.cos(math.pi / 2 * 10 / 8)),  # a little longer: a small price
        (1, 15, 1 - 0.7),  # nearly twice: the floor keeps right above wrong
        (1, 40, 1 - 0.7),
        (0, 4, 0.0),  # short and wrong is not paid
        (0, 8, 0.0),
        (0, 12, math.cos(math.pi / 2 * 12 / 8)),  # long and wrong costs
        (0, 16, -1.0),
        (0, 99, -1.0),  # constant from twice the history on
    ],
)
def test_hapo_pays_by_the_cosine_of_the_length(correct, length, expected):
    tool = shaper("hapo")
    shaped(tool, [1, 1, 0], [8, 11, 3])
    assert shaped(tool, [correct], [length]) == pytest.approx([expected])


def test_hapo_weight_scales_the_length_and_not_the_verdict():
    tool = shaper("hapo", weight=0.5)
    shaped(tool, [1], [8])
    assert shaped(tool, [1, 0], [4, 16]) == pytest.approx([1 + 0.5 * math.cos(math.pi / 4), -0.5])


def test_hapo_remembers_the_shortest_right_answer_of_each_prompt_only():
    tool = shaper("hapo")
    shaped(tool, [1, 1, 0], [9, 7, 2], "a")
    shaped(tool, [0, 0], [1, 1], "b")
    shaped(tool, [1], [12], "a")  # longer: the history stays
    assert tool.state_dict() == {"a": 7.0}
    assert shaped(tool, [1], [3], "b") == [1.0]  # wrong answers are no history
    # within one batch every answer meets the history from before it
    assert shaped(tool, [1, 1], [7, 3.5], "a") == pytest.approx([1.0, 1 + math.cos(math.pi / 4)])
    assert tool.state_dict() == {"a": 3.5, "b": 3.0}


def test_the_history_survives_a_checkpoint():
    tool, other = shaper("hapo"), shaper("hapo")
    shaped(tool, [1], [8])
    other.load_state_dict(tool.state_dict())
    assert shaped(other, [1, 0], [4, 12]) == shaped(tool, [1, 0], [4, 12])


# -- SLPO: arXiv 2511.22891


def test_slpo_ranks_the_right_answers_of_a_prompt_by_length():
    tool = shaper("slpo", weight=0.4)
    rewards = shaped(tool, [1, 0, 1, 1], [10, 2, 20, 15])
    assert rewards == pytest.approx([1.4, 0.0, 1.0, 1.2])


@pytest.mark.parametrize(
    ("correct", "lengths"),
    [
        ([0, 0, 0], [3, 5, 7]),  # no right answer
        ([0, 1, 0], [3, 5, 7]),  # one
        ([1, 0, 1], [5, 2, 5]),  # all right ones equally long
    ],
)
def test_slpo_leaves_the_verdict_where_there_is_nothing_to_compare(correct, lengths):
    assert shaped(shaper("slpo"), correct, lengths) == correct


# -- GRPO-λ: arXiv 2505.18086


def test_grpo_lambda_takes_length_from_the_most_accurate_share_of_prompts_only():
    tool = shaper("grpo_lambda", share=0.5, weight=0.6)
    prompts = ["easy"] * 3 + ["hard"] * 3
    correct = np.array([1.0, 1, 0, 1, 0, 0])
    rewards = tool.shape(prompts, correct, [4, 8, 5, 30, 2, 2], 0)
    sigma = lambda z: 1 / (1 + math.exp(-z))  # noqa: E731
    # mean 6, standard deviation 2 over the right answers
    expected = [1 - 0.6 * sigma(-1), 1 - 0.6 * sigma(1), 0.0, 1.0, 0.0, 0.0]
    assert rewards.tolist() == pytest.approx(expected)


def test_grpo_lambda_with_one_right_answer_or_equal_lengths_costs_half():
    tool = shaper("grpo_lambda", share=1.0)
    assert shaped(tool, [1, 0], [9, 3]) == pytest.approx([0.7, 0])
    assert shaped(tool, [1, 1], [9, 9]) == pytest.approx([0.7, 0.7])
    assert shaped(tool, [0, 0], [9, 3]) == [0, 0]


def test_the_top_share_is_rounded_up_and_ties_go_to_the_first():
    assert top_share([0.5, 1.0, 0.5, 0.0], 0.25).tolist() == [False, True, False, False]
    assert top_share([0.5, 1.0, 0.5, 0.0], 0.3).tolist() == [True, True, False, False]
    assert top_share([0.5] * 10, 0.2).sum() == 2
    assert top_share([0.0], 0.01).tolist() == [True]


# -- truncation (arXiv 2510.15110) and the shrinking budget (arXiv 2508.08940)


def test_truncation_makes_long_right_answers_wrong():
    assert shaped(shaper("truncation", limit=5), [1, 1, 0, 1], [5, 6, 2, 1]) == [1, 0, 0, 1]


def test_the_budget_shrinks_by_steps_down_to_one_token():
    assert [budget_at(t, 100, 0.5, 10) for t in (0, 9, 10, 25, 1000)] == [100, 100, 50, 25, 1]


def test_the_budget_rewards_what_stays_inside():
    band = shaper("budget", start=10, decay=0.5, interval=1, weight=0.5)
    assert shaped(band, [1, 0, 1, 1, 1], [3, 10, 10, 15, 30]) == [1.5, 0.5, 1.5, 1.25, 1.0]
    assert shaped(band, [1, 1], [5, 10], step=1) == [1.5, 1.0]
    triangle = shaper("budget", start=10, decay=0.5, interval=1, weight=0.5, form="triangle")
    assert shaped(triangle, [1, 1, 1], [5, 10, 15]) == [1.25, 1.5, 1.25]


# -- all of them


@pytest.mark.parametrize("name", LEVELS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_rows_does_not_matter(name, seed):
    rng = np.random.default_rng(seed)
    prompts = rng.choice(["a", "b", "c", "d"], 12).tolist()
    correct, lengths = rng.integers(0, 2, 12).astype(float), rng.integers(1, 20, 12)
    order = rng.permutation(12)
    one, two = shaper(name), shaper(name)
    for step in range(3):
        straight = one.shape(prompts, correct, lengths.tolist(), step)
        mixed = two.shape([prompts[i] for i in order], correct[order], lengths[order], step)
        np.testing.assert_allclose(straight[order], mixed)
        lengths = lengths[::-1].copy()
    assert one.state_dict() == two.state_dict()
    assert bool(one.state_dict()) == (name == "hapo" and bool(correct.any()))


@pytest.mark.parametrize("name", [name for name in LEVELS if name not in ("none", "budget")])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_a_right_answer_beats_a_wrong_one_unless_it_is_cut_off(name, seed):
    rng = np.random.default_rng(seed)
    tool = shaper(name)
    for _ in range(2):
        correct, lengths = rng.integers(0, 2, 8).astype(float), rng.integers(1, 16, 8)
        rewards = np.array(shaped(tool, correct, lengths.tolist()))
        if correct.any() and not correct.all():
            assert rewards[correct == 1].min() > rewards[correct == 0].max()
        # among right answers a longer one never gets more
        right = np.argsort(lengths[correct == 1], kind="stable")
        assert (np.diff(rewards[correct == 1][right]) <= 1e-12).all()


def test_none_leaves_any_reward_alone():
    rewards = np.array([0.3, -2.0, 1.0])
    assert shaper("none").shape(["a"] * 3, rewards, [1, 2, 3], 0).tolist() == rewards.tolist()


@pytest.mark.parametrize("name", [name for name in LEVELS if name != "none"])
def test_rewards_that_are_no_verdicts_are_refused(name):
    with pytest.raises(DataError, match=rf"shaping={name} shapes verdicts.*one reward is 0.5"):
        shaped(shaper(name), [1, 0.5], [3, 4])


@pytest.mark.parametrize("name", LEVELS)
def test_settings_of_another_shaper_are_refused(name):
    level = read_level("shaping", name)
    with pytest.raises(ValueError, match="no meaning" if level["limit"] is None else "needs"):
        ShapingConfig(**{**level, "limit": 5 if level["limit"] is None else None})


def test_what_needs_training_is_what_looks_at_the_past_or_the_step():
    for name in LEVELS:
        one, two = shaper(name), shaper(name)
        shaped(two, [1, 1], [2, 3])
        late = shaped(two, [1, 0, 1], [9, 9, 12], step=50)
        assert (late != shaped(one, [1, 0, 1], [9, 9, 12])) == (name in ALONG_TRAINING)


# -- behind a training reward


class Verdicts:
    """Answers are right where their text says so."""

    def score(self, answers):
        return np.array([float(answer.response == "right") for answer in answers])


def answer(prompt, text, tokens):
    return Answer(prompt, prompt, [1], text, [0] * tokens)


def test_a_training_reward_shapes_before_it_normalises():
    reward = TrainingReward(ScalarSource(Verdicts()), "within_prompt_sd", 3.0, shaper("slpo"))
    answers = [answer("a", "right", 4), answer("a", "right", 8), answer("a", "wrong", 2)]
    table = reward.fit(answers)
    raw = np.array([1.2, 1.0, 0.0])
    np.testing.assert_allclose(table.rank, raw)
    np.testing.assert_allclose(table.reward, raw / raw.std(ddof=1))
    assert reward.raw.tolist() == [1, 1, 0]
    np.testing.assert_allclose(reward.shaped, raw)
    # new answers: the same number divides, and an answer that stands alone is not shaped
    again = reward.score([answer("b", "right", 5), answer("b", "right", 6)])
    np.testing.assert_allclose(again.reward, np.array([1.2, 1.0]) / raw.std(ddof=1))
    np.testing.assert_allclose(reward.alone(answers).reward, [1, 1, 0] / raw.std(ddof=1))


def test_the_pool_on_which_a_reward_is_fitted_is_no_history():
    reward = TrainingReward(ScalarSource(Verdicts()), "none", 3.0, shaper("hapo"))
    answers = [answer("a", "right", 8), answer("a", "wrong", 2)]
    assert reward.fit(answers).reward.tolist() == [1, 0]
    assert reward.shaper.state_dict() == {}
    assert reward.score(answers).reward.tolist() == [1, 0]
    assert reward.shaper.state_dict() == {"a": 8.0}
    expected = [1 + math.cos(math.pi / 4), 0]
    assert reward.score([answer("a", "right", 4), *answers[1:]]).reward.tolist() == pytest.approx(
        expected
    )


def test_the_step_reaches_the_budget():
    tool = shaper("budget", start=10, decay=0.5, interval=1, weight=0.5)
    reward = TrainingReward(ScalarSource(Verdicts()), "none", 3.0, tool)
    answers = [answer("a", "right", 10)]
    reward.fit(answers)
    assert [reward.score(answers, step).reward.tolist() for step in (0, 1)] == [[1.5], [1.0]]
