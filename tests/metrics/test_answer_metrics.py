"""Metrics over stored answers and pairs: closed forms, statsmodels, and what each must not do."""

from dataclasses import asdict

import numpy as np
import pytest
import statsmodels.api as sm

from ablate.errors import DataError
from ablate.metrics import METRICS, Estimate, Table, describe, mean_over_prompts, metric
from ablate.metrics.answers import (
    hacking_gap,
    repeated_share,
    repetition,
    reward_correlation,
    reward_gain,
    reward_gap,
    win_rate_baseline,
    win_rate_lc,
    worst_group_gain,
    worst_group_win_rate,
)
from ablate.metrics.length_control import length_controlled
from ablate.metrics.pairs import (
    chosen_change,
    chosen_fell,
    chosen_lost,
    implicit_reward_accuracy,
    ranking_accuracy,
    ranking_accuracy_ln,
    summarize_pairs,
)


def names(count: int) -> np.ndarray:
    return np.array([f"p{i}" for i in range(count)], dtype=object)


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0), ("a", 0), ("a b", 0), ("a b a b", 1 / 3), ("a a a a", 2 / 3), ("a b c d", 0)],
)
def test_repetition_counts_word_pairs_that_came_before(text: str, share: float) -> None:
    assert repeated_share(text) == pytest.approx(share)


def test_repetition_averages_over_prompts_first() -> None:
    table = {
        "response": np.array(["a a a", "a b c", "a b"], dtype=object),
        "prompt_id": np.array(["x", "x", "y"], dtype=object),
    }
    assert repetition(table).mean == pytest.approx((0.25 + 0) / 2)


def lengths_and_wins(seed: int, count: int = 4000) -> dict[str, np.ndarray]:
    """Longer answers win more often; at equal length the model wins 60 % of the time."""
    rng = np.random.default_rng(seed)
    ours, theirs = rng.integers(50, 150, count) + 40, rng.integers(50, 150, count)
    gap = ours - theirs
    logit = np.log(0.6 / 0.4) + 2.0 * np.tanh(gap / gap.std())
    wins = rng.random(count) < 1 / (1 + np.exp(-logit))
    baseline = rng.normal(0, 1, count)
    return {
        "scores": baseline + np.where(wins, 1.0, -1.0), "baseline": baseline, "lengths": ours,
        "baseline_lengths": theirs, "prompts": names(count),
    }  # fmt: skip


def test_the_length_controlled_rate_is_the_rate_at_equal_length() -> None:
    data = lengths_and_wins(0)
    raw = (data["scores"] > data["baseline"]).mean()
    found = length_controlled(**data)
    assert raw > 0.68, "length inflates the plain win rate"
    assert found.low <= 0.6 <= found.high
    assert found.high - found.low < 0.06


def test_the_length_controlled_regression_is_a_logistic_regression() -> None:
    data = lengths_and_wins(1, 500)
    gap = data["lengths"] - data["baseline_lengths"]
    difficulty = data["baseline"] - data["baseline"].mean()
    design = np.column_stack(
        [np.ones(500), np.tanh(gap / gap.std()), difficulty / difficulty.std()]
    )
    wins = (data["scores"] > data["baseline"]).astype(float)
    model = sm.GLM(wins, design, family=sm.families.Binomial()).fit()
    equal = design.copy()
    equal[:, 1] = 0
    assert length_controlled(**data).mean == pytest.approx(model.predict(equal).mean(), abs=1e-3)


def test_the_length_controlled_interval_covers() -> None:
    hits = [
        e.low <= 0.6 <= e.high
        for e in (length_controlled(**lengths_and_wins(seed, 400)) for seed in range(300))
    ]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize(("shift", "rate"), [(1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)])
def test_sure_wins_losses_and_ties_stay_finite(shift: float, rate: float) -> None:
    base = np.random.default_rng(2).normal(0, 1, 30)
    lengths = np.arange(30)
    found = length_controlled(base + shift, base, lengths, lengths[::-1], names(30))
    assert found.mean == pytest.approx(rate, abs=0.03)
    assert np.isfinite([found.se, found.low, found.high]).all()


def test_answers_of_one_length_have_the_plain_win_rate() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(0.3, 1, 400), rng.normal(0, 1, 400)
    same = np.full(400, 7)
    found = length_controlled(ours, theirs, same, same, names(400))
    assert found.mean == pytest.approx((ours > theirs).mean(), abs=1e-3)
    with pytest.raises(DataError, match="three prompts"):
        length_controlled(ours[:2], theirs[:2], same[:2], same[:2], names(2))


def test_the_win_rate_against_sft_measures_the_texts_in_characters() -> None:
    data = lengths_and_wins(4, 200)
    table = {
        "judge_score": data["scores"], "baseline_score": data["baseline"],
        "num_chars": data["lengths"], "prompt_id": data["prompts"],
        "baseline_response": np.array(["x" * n for n in data["baseline_lengths"]], dtype=object),
    }  # fmt: skip
    assert win_rate_lc(table) == length_controlled(**data)


def rewards(learnt: np.ndarray, gold: np.ndarray, other: np.ndarray) -> Table:
    return {
        "train_reward": learnt, "judge_score": gold, "other_train_reward": other,
        "other_judge_score": other, "baseline_score": other, "prompt_id": names(len(gold)),
    }  # fmt: skip


def test_the_gap_shows_a_training_reward_that_runs_ahead_of_the_judge() -> None:
    other = np.random.default_rng(5).normal(0, 2, 50)
    honest = reward_gap(rewards(other + 2, other + 2, other))
    hacked = reward_gap(rewards(other + 2, other - 1, other))
    assert honest.mean == pytest.approx(0)
    assert hacked.mean == pytest.approx(3 / other.std())
    with pytest.raises(DataError, match="same for every answer"):
        reward_gap(rewards(other, other, np.zeros(50)))


def test_the_correlation_is_pearson_s_over_prompts() -> None:
    rng = np.random.default_rng(6)
    gold = rng.normal(0, 1, 80)
    learnt = gold + rng.normal(0, 1, 80)
    found = reward_correlation(rewards(learnt, gold, gold))
    assert found.mean == pytest.approx(np.corrcoef(learnt, gold)[0, 1])
    from scipy import stats

    interval = stats.pearsonr(learnt, gold).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_gain_and_win_rate_against_a_baseline() -> None:
    table = rewards(np.zeros(4), np.array([3.0, 1, 1, 0]), np.ones(4))
    assert reward_gain(table).mean == pytest.approx(0.25)
    assert win_rate_baseline(table).mean == pytest.approx(0.5)


PAIRS = {
    # chosen likelier; less likely but with the better ratio; likelier only because shorter; a tie
    "logp_policy_chosen": np.array([-5.0, -9.0, -4.0, -6.0]),
    "logp_policy_rejected": np.array([-7.0, -8.0, -6.0, -6.0]),
    "logp_ref_chosen": np.array([-4.0, -12.0, -3.0, -6.0]),
    "logp_ref_rejected": np.array([-7.0, -8.0, -7.0, -7.0]),
    "num_tokens_chosen": np.array([5, 9, 2, 6]),
    "num_tokens_rejected": np.array([7, 8, 6, 3]),
    "prompt_id": names(4),
}


def test_three_accuracies_are_three_things() -> None:
    assert ranking_accuracy(PAIRS).mean == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    # per token: -1 and -1 tie, -1 and -1 tie, -2 < -1, -1 > -2
    assert ranking_accuracy_ln(PAIRS).mean == pytest.approx((0.5 + 0.5 + 0 + 1) / 4)
    # ratios: -1 < 0, 3 > 0, -1 < 1, 0 < 1
    assert implicit_reward_accuracy(PAIRS).mean == pytest.approx(1 / 4)


def test_displacement_counts_chosen_responses_that_fell() -> None:
    assert chosen_fell(PAIRS).mean == pytest.approx(0.5)
    assert chosen_change(PAIRS).mean == pytest.approx((-1 + 3 - 1 + 0) / 4)


def test_the_probability_that_chosen_responses_lost() -> None:
    # falls by 1 nat, rises, falls by 1 nat, stays
    assert chosen_lost(PAIRS).mean == pytest.approx(2 * (1 - np.exp(-1)) / 4)


def test_pairs_are_summarized_by_split() -> None:
    both = {name: np.concatenate([values, values[:1]]) for name, values in PAIRS.items()}
    found = summarize_pairs({**both, "split": np.array(["test"] * 4 + ["train"])})
    assert found["ranking_accuracy"]["test"] == asdict(ranking_accuracy(PAIRS))
    assert found["chosen_change"]["train"]["mean"] == -1.0
    assert found["chosen_fell"]["test"]["n"] == 4


def test_the_lead_over_the_judge_is_measured_from_the_sft_policy() -> None:
    other = np.random.default_rng(9).normal(0, 2, 50)
    table = {"train_reward": other + 2, "baseline_train_reward": other, "judge_score": other - 1,
             "baseline_score": other, "prompt_id": names(50)}  # fmt: skip
    assert hacking_gap(table).mean == pytest.approx(3 / other.std())


def test_the_worst_group_is_judged_by_its_own_utility() -> None:
    table = {
        "utility_terse": np.array([1.0, 0, 0, 0]), "baseline_utility_terse": np.full(4, 0.5),
        "utility_chatty": np.array([5.0, 5, 5, 0.5]), "baseline_utility_chatty": np.full(4, 0.5),
        "prompt_id": names(4),
    }  # fmt: skip
    assert worst_group_win_rate(table).mean == pytest.approx(0.25)
    assert worst_group_gain(table).mean == pytest.approx(-0.25)
    with pytest.raises(KeyError, match="utility_"):
        worst_group_gain({"prompt_id": names(4)})


def test_a_new_metric_is_one_function() -> None:
    @metric("capitals", title="capitals", unit="%", better=-1, scale=100.0)
    def capitals(table: Table) -> Estimate:
        share = np.array([text.isupper() for text in table["response"]], dtype=float)
        return mean_over_prompts(share, table["prompt_id"])

    try:
        assert describe("capitals/test").unit == "%"
        table = {"response": np.array(["A", "b"], dtype=object), "prompt_id": names(2)}
        assert METRICS["capitals"].compute is capitals
        assert capitals(table).mean == 0.5
        with pytest.raises(ValueError, match="two metrics"):
            metric("capitals", title="again")(capitals)
    finally:
        del METRICS["capitals"]
