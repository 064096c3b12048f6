"""Power against simulation and statsmodels; the split of a spread into seeds and prompts."""

import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.power import TTestPower

from ablate.analysis import differences, null
from ablate.analysis.blocked import fit_blocks
from ablate.analysis.multiplicity import two_sided
from ablate.analysis.power import detectable, power, prompts_needed, seeds_needed, spread
from ablate.analysis.power_equal import equivalence_power, seeds_to_equal


def test_two_arms_are_statsmodels_paired_t_test() -> None:
    # a paired difference of two runs has the standard deviation sd * sqrt(2)
    theirs = TTestPower().power(0.5 / (0.4 * math.sqrt(2)), nobs=9, alpha=0.05)
    assert power(0.5, 0.4, 9, arms=2, comparisons=1) == pytest.approx(theirs, abs=1e-6)


def test_the_power_is_what_a_simulation_finds() -> None:
    rng = np.random.default_rng(0)
    values = null.null_means(rng, 4000, 5, 4, 0.0)
    values[:, 1] += 2.0
    names, blocks = np.repeat(np.arange(5), 4).tolist(), np.tile(np.arange(4), 5).tolist()
    fit = fit_blocks(names, blocks, values.reshape(4000, -1))
    gap, se = fit.contrast(fit.pairs([(1, 0)]))
    found = (two_sided(gap / se, fit.df) <= 0.05 / 4).mean()
    assert power(2.0, 1.0, 4, arms=5, comparisons=4) == pytest.approx(found, abs=0.02)


@pytest.mark.parametrize("difference", [0.05, 0.2, 1.0])
def test_the_seeds_needed_are_the_fewest_that_suffice(difference: float) -> None:
    seeds = seeds_needed(difference, 0.2, arms=4, comparisons=3)
    assert seeds is not None
    assert power(difference, 0.2, seeds, 4, 3) >= 0.8
    assert seeds == 2 or power(difference, 0.2, seeds - 1, 4, 3) < 0.8


def test_the_detectable_difference_is_found_as_often_as_promised() -> None:
    assert power(detectable(0.3, 3, 6, 5), 0.3, 3, 6, 5) == pytest.approx(0.8, abs=1e-6)
    assert detectable(0.3, 1, 6, 5) == math.inf


def test_no_difference_is_never_found() -> None:
    with pytest.raises(ValueError, match="0"):
        seeds_needed(0.0, 0.2, 4, 3)
    assert seeds_needed(1e-9, 1.0, 4, 3) is None


def drawn(
    prompts: int, seed_sd: float, noise: float, arms: int = 20, seeds: int = 20
) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    shape = (arms, seeds, prompts)
    value = (
        rng.normal(0, 3, (arms, 1, 1)) + rng.normal(0, 3, (1, seeds, 1))
        + rng.normal(0, 2, (1, 1, prompts)) + rng.normal(0, 1, (arms, 1, prompts))
        + rng.normal(0, seed_sd, (arms, seeds, 1)) + rng.normal(0, noise, shape)
    )  # fmt: skip
    index = pd.MultiIndex.from_product(
        [range(n) for n in shape], names=["arm", "block", "prompt_id"]
    )
    return pd.DataFrame({"value": value.ravel()}, index=index).reset_index()


def test_the_spread_is_split_as_it_was_made() -> None:
    found = spread(drawn(30, seed_sd=0.5, noise=2.0))
    assert found.seed == pytest.approx(0.25, rel=0.25)
    assert found.prompts == pytest.approx(4 / 30, rel=0.1)
    assert found.variance(60) == pytest.approx(found.seed + found.prompts / 2)


def test_more_prompts_help_only_against_their_own_part() -> None:
    only_prompts = spread(drawn(30, seed_sd=0.0, noise=2.0))
    needed = prompts_needed(0.5, only_prompts, seeds=4, arms=4, comparisons=3)
    assert needed is not None
    sd = math.sqrt(only_prompts.variance(needed))
    assert power(0.5, sd, 4, 4, 3) >= 0.8
    assert power(0.5, math.sqrt(only_prompts.variance(needed - 1)), 4, 4, 3) < 0.8
    mostly_seeds = spread(drawn(30, seed_sd=2.0, noise=2.0))
    assert prompts_needed(0.5, mostly_seeds, seeds=4, arms=4, comparisons=3) is None


@pytest.mark.parametrize(("margin", "arms", "seeds"), [(1.5, 5, 4), (0.9, 3, 10), (1.9, 8, 6)])
def test_the_power_to_show_equality_is_what_the_table_s_own_tests_find(
    margin: float, arms: int, seeds: int
) -> None:
    rng = np.random.default_rng([arms, seeds])
    shares = []
    for means in null.null_means(rng, 200, arms, seeds, 0.0):
        runs = pd.DataFrame(
            {"arm": np.repeat(np.arange(arms), seeds), "seed": np.tile(np.arange(seeds), arms),
             "value": means.ravel()}
        )  # fmt: skip
        shares.append(differences(runs, 0, margin=margin)["equivalent"].mean())
    error = 4 * np.std(shares) / math.sqrt(200)
    found = equivalence_power(margin, 1.0, seeds, arms, arms - 1)
    assert 0.05 < found < 0.999
    assert found == pytest.approx(np.mean(shares), abs=error + 0.02)


def test_the_seeds_to_show_equality_are_the_fewest_that_suffice() -> None:
    seeds = seeds_to_equal(0.3, 0.4, arms=4, comparisons=3)
    assert seeds is not None
    assert equivalence_power(0.3, 0.4, seeds, 4, 3) >= 0.8
    assert equivalence_power(0.3, 0.4, seeds - 1, 4, 3) < 0.8
    assert seeds_to_equal(1e-4, 1.0, 4, 3) is None
    assert equivalence_power(0.3, 0.4, 1, 4, 3) == 0
    # more comparisons and less of a margin take more
    assert (seeds_to_equal(0.3, 0.4, 4, 30) or 0) > seeds
    assert (seeds_to_equal(0.2, 0.4, 4, 3) or 0) > seeds
