"""Tables of studies in which nothing differs: at most one in twenty may claim a finding."""

import numpy as np
import pandas as pd
import pytest

from ablate.analysis import differences, null

TABLES = 4000
RATIOS = [0.5, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("arms", [2, 8])
def test_the_table_claims_nothing_where_nothing_differs(
    arms: int, seeds: int, ratio: float
) -> None:
    rng = np.random.default_rng([arms, seeds, round(10 * ratio)])
    p = null.blocked_p(null.null_means(rng, TABLES, arms, seeds, ratio))
    share, low, _ = null.share_with_a_finding(p)
    assert low <= 0.05, f"{100 * share:.1f} % of null tables hold a finding"
    # the test is no stone: it uses up a good part of what it may
    assert share > 0.01


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("trials", [(4,) * 6, (1, 8, 8, 8, 8, 8)], ids=["equal", "unequal"])
def test_tuned_cells_reported_with_fresh_seeds_claim_nothing(
    trials: tuple[int, ...], seeds: int, ratio: float
) -> None:
    rng = np.random.default_rng([len(set(trials)), seeds, round(10 * ratio)])
    means = null.tuned_means(rng, TABLES, trials, seeds, ratio, fresh=True)
    share, low, _ = null.share_with_a_finding(null.blocked_p(means))
    assert low <= 0.05, f"{100 * share:.1f} % of null tables hold a finding"


def test_seeds_that_chose_flatter_what_was_tuned_more() -> None:
    """Why `ablate table` refuses to report the seeds that chose."""
    rng = np.random.default_rng(0)
    means = null.tuned_means(rng, TABLES, (1, 16, 16, 16, 16, 16), 2, 3.0, fresh=False)
    _, low, _ = null.share_with_a_finding(null.blocked_p(means))
    assert low > 0.05
    assert means[:, 1:].mean() - means[:, 0].mean() > 1, "in prompt standard errors"


def test_tests_over_prompts_alone_find_what_is_not_there() -> None:
    """The wrong ways are wrong in this simulation too, so that passing it means something."""
    rng = np.random.default_rng(1)
    scores = null.null_scores(rng, 300, 6, 3, 32, 2.0)
    assert null.share_with_a_finding(null.prompt_paired_p(scores))[1] > 0.4
    assert null.share_with_a_finding(null.bootstrap_p(rng, scores))[1] > 0.05
    share, low, _ = null.share_with_a_finding(null.blocked_p(scores.mean(axis=3)))
    assert low <= 0.05 < 0.05 + share


def test_the_simulation_runs_the_table_s_own_test() -> None:
    rng = np.random.default_rng(2)
    means = null.null_means(rng, 3, 4, 3, 1.0)
    for number, p in enumerate(null.blocked_p(means)):
        runs = pd.DataFrame(
            {"arm": np.repeat([*"abcd"], 3), "seed": [0, 1, 2] * 4, "value": means[number].ravel()}
        )
        assert differences(runs, "a")["p_holm"].to_numpy() == pytest.approx(p)


def test_seeds_missing_here_and_there_claim_nothing_either() -> None:
    rng = np.random.default_rng(3)
    keep = rng.permutation(18)[:14]
    names, blocks = np.repeat(np.arange(6), 3)[keep], np.tile(np.arange(3), 6)[keep]
    from ablate.analysis.blocked import fit_blocks
    from ablate.analysis.multiplicity import holm, two_sided

    values = null.null_means(rng, TABLES, 6, 3, 2.0).reshape(TABLES, -1)[:, keep]
    fit = fit_blocks(names.tolist(), blocks.tolist(), values)
    gap, se = fit.contrast(fit.pairs([(arm, 0) for arm in range(1, 6)]))
    share, low, _ = null.share_with_a_finding(holm(two_sided(gap / se, fit.df)))
    assert share > 0.01
    assert low <= 0.05
