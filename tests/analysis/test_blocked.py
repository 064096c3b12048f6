"""Blocked differences against closed forms, statsmodels and simulation."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from ablate.analysis import differences
from ablate.analysis.blocked import fit_blocks
from ablate.analysis.contrasts import equivalence_p
from ablate.analysis.multiplicity import holm, possible_best, simultaneous_half_width


def table(arms: str, seeds: int, seed: int = 0, sd: float = 0.2) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    blocks = rng.normal(0, 1, seeds)
    return pd.DataFrame(
        [
            {"arm": arm, "seed": s, "value": 0.3 * i + blocks[s] + rng.normal(0, sd)}
            for i, arm in enumerate(arms)
            for s in range(seeds)
        ]
    )


def by_statsmodels(runs: pd.DataFrame) -> object:
    return smf.ols("value ~ C(arm) + C(seed)", data=runs).fit()


@pytest.mark.parametrize("missing", [[], [0], [1, 5, 11]])
def test_differences_are_those_of_the_two_way_anova(missing: list[int]) -> None:
    runs = table("abcd", 3).drop(index=missing)
    model = by_statsmodels(runs)
    found = differences(runs, "a").set_index("arm")
    for arm in "bcd":
        name = f"C(arm)[T.{arm}]"
        assert found.loc[arm, "difference"] == pytest.approx(model.params[name])
        assert found.loc[arm, "se"] == pytest.approx(model.bse[name])
        assert found.loc[arm, "p"] == pytest.approx(model.pvalues[name])
    assert (found["df"] == model.df_resid).all()
    assert found["sd"].iloc[0] ** 2 == pytest.approx(anova_lm(model).loc["Residual", "mean_sq"])
    expected = multipletests(found["p"], alpha=0.05, method="holm")
    assert found["p_holm"].to_numpy() == pytest.approx(expected[1])
    assert found["significant"].tolist() == expected[0].tolist()


def test_two_full_arms_are_the_paired_t_test() -> None:
    runs = table("ab", 5)
    a, b = (runs.loc[runs["arm"] == arm, "value"].to_numpy() for arm in "ab")
    (row,) = differences(runs, "a", margin=0.4).to_dict("records")
    t, p = stats.ttest_rel(b, a)
    assert (row["t"], row["p"]) == pytest.approx((t, p))
    interval = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["p_equivalent"] == pytest.approx(ttost_paired(b, a, -0.4, 0.4)[0])


def test_with_three_seeds_the_pooled_test_sees_what_one_pair_cannot() -> None:
    # the pair alone has 2 degrees of freedom, the table of eight arms has 14
    found = differences(table("abcdefgh", 3), "a")
    assert (found["df"] == 14).all()
    needed = simultaneous_half_width(np.ones(2), np.array([2, 14]), len(found), 0.95)
    assert needed[0] > 11 > 3.3 > needed[1]
    assert (found["high"] - found["difference"]).to_numpy() == pytest.approx(
        needed[1] * found["se"].to_numpy()
    )


def test_a_shift_of_a_whole_seed_changes_no_difference() -> None:
    runs = table("abc", 3)
    shifted = runs.assign(value=runs["value"] + runs["seed"].map({0: 5.0, 1: -3.0, 2: 100.0}))
    for column in ("difference", "se", "p"):
        assert differences(shifted, "a")[column].to_numpy() == pytest.approx(
            differences(runs, "a")[column].to_numpy(), rel=1e-6
        )


def test_one_seed_is_told_and_not_tested() -> None:
    found = differences(table("abc", 1), "a", margin=1.0)
    assert found["difference"].notna().all()
    assert found[["se", "p", "p_holm", "low", "p_equivalent"]].isna().all(axis=None)
    assert not found["significant"].any()
    assert not found["equivalent"].any()


def test_arms_without_a_seed_in_common_are_not_compared() -> None:
    runs = pd.DataFrame(
        {"arm": list("aabbcc"), "seed": [0, 1, 0, 1, 7, 8], "value": [1.0, 2, 1.5, 2.1, 9, 9.5]}
    )
    found = differences(runs, "a").set_index("arm")
    assert np.isfinite(found.loc["b", "p"])
    assert found.loc["c", ["difference", "p"]].isna().all()
    # nor does it weigh on the correction of what can be compared
    assert found.loc["b", "p_holm"] == pytest.approx(found.loc["b", "p"])


def test_a_chain_of_shared_seeds_links_arms_that_share_none() -> None:
    runs = pd.DataFrame(
        {"arm": list("aabbcc"), "seed": [0, 1, 1, 2, 2, 3], "value": [1.0, 2, 5, 6, 9, 9.5]}
    )
    found = differences(runs, "a").set_index("arm")
    # b - a from seed 1, c - b from seed 2
    assert found.loc["c", "difference"] == pytest.approx((5 - 2) + (9 - 6))


def test_identical_runs_have_no_spread_to_test_with() -> None:
    runs = pd.DataFrame({"arm": list("aabb"), "seed": [0, 1, 0, 1], "value": [1.0, 1, 2, 2]})
    assert differences(runs, "a")["p"].isna().all()


def test_each_column_has_its_own_baseline_and_each_stratum_its_own_variance() -> None:
    first, second = table("ab", 4, seed=1), table("cd", 4, seed=2, sd=20.0)
    both = pd.concat([first.assign(stratum="one"), second.assign(stratum="two")])
    found = differences(both, {"b": "a", "d": "c"})
    alone = [differences(first, "a"), differences(second, "c")]
    assert found["se"].tolist() == pytest.approx([part["se"].iloc[0] for part in alone])
    assert found["p_holm"].to_numpy() == pytest.approx(holm(found["p"].to_numpy()))


def test_undefined_values_are_an_error_and_not_dropped() -> None:
    with pytest.raises(ValueError, match="undefined"):
        fit_blocks(["a", "b"], [0, 0], np.array([1.0, np.nan]))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=8))
def test_holm_is_that_of_statsmodels_over_what_could_be_tested(values: list[float]) -> None:
    p = np.array(values)
    made = np.isfinite(p)
    adjusted = holm(p)
    assert np.isnan(adjusted[~made]).all()
    if made.any():
        assert adjusted[made] == pytest.approx(multipletests(p[made], method="holm")[1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(2, 5))
def test_an_interval_without_zero_is_always_significant(seed: int, arms: int, seeds: int) -> None:
    found = differences(table("abcdefgh"[:arms], seeds, seed), "a")
    clear = (found["low"] > 0) | (found["high"] < 0)
    assert found.loc[clear, "significant"].all()
    # and an effect called significant has its own interval clear of 0
    mine = found[found["significant"]]
    assert ((mine["low_single"] > 0) | (mine["high_single"] < 0)).all()


def simulated(tables: int, arms: int, seeds: int) -> tuple[np.ndarray, list[int], list[int]]:
    rng = np.random.default_rng(3)
    truth = np.linspace(0, 1, arms)[None, :, None]
    values = truth + rng.normal(0, 2, (tables, 1, seeds)) + rng.normal(0, 1, (tables, arms, seeds))
    names = np.repeat(np.arange(arms), seeds).tolist()
    return values.reshape(tables, -1), names, np.tile(np.arange(seeds), arms).tolist()


def test_intervals_cover_as_often_as_they_say() -> None:
    values, names, blocks = simulated(4000, 4, 3)
    fit = fit_blocks(names, blocks, values)
    gap, se = fit.contrast(fit.pairs([(1, 0), (2, 0), (3, 0)]))
    miss = np.abs(gap - np.array([1, 2, 3]) / 3)
    single = miss <= simultaneous_half_width(se, fit.df, 1, 0.95)
    assert single.mean() == pytest.approx(0.95, abs=0.01)
    together = (miss <= simultaneous_half_width(se, fit.df, 3, 0.95)).all(axis=1)
    assert 0.95 <= together.mean() <= 0.975


def test_the_possible_best_holds_the_best_as_often_as_it_says() -> None:
    values, names, blocks = simulated(600, 4, 3)
    kept = [possible_best(fit_blocks(names, blocks, row), range(4), 1, 0.95) for row in values]
    assert np.mean([3 in best for best in kept]) > 0.94
    assert np.mean([0 in best for best in kept]) < 0.95
    flipped = [possible_best(fit_blocks(names, blocks, -row), range(4), -1, 0.95) for row in values]
    assert flipped == kept


def test_equivalence_is_claimed_falsely_at_most_as_often_as_it_says() -> None:
    # the true difference is the margin itself: the hardest case
    values = np.random.default_rng(5).normal(0, 0.2, (4000, 2, 4)) + np.array([[0.0], [0.5]])
    fit = fit_blocks([*"aaaabbbb"], [*range(4)] * 2, values.reshape(4000, -1))
    gap, se = fit.contrast(fit.pairs([("b", "a")]))
    claimed = (equivalence_p(gap, se, fit.df, 0.5) <= 0.05).mean()
    assert claimed == pytest.approx(0.05, abs=0.01)


def test_a_margin_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        differences(table("ab", 3), "a", margin=0.0)
