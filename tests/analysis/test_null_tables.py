"""Tables of studies in which nothing differs: at most one in twenty may claim a finding."""

from itertools import chain

import numpy as np
import pandas as pd
import pytest

from ablate.analysis import differences, null
from ablate.analysis.blocked import fit_blocks
from ablate.analysis.multiplicity import holm, two_sided
from ablate.analysis.null import Scores
from ablate.analysis.tuning import draw_of_trials

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


def chosen(report: str, trials: tuple[int, ...], seeds: int, tables: int, **more: float) -> Scores:
    """float[T, A, S]: what tuned cells report, over all spreads between seeds."""
    rng = np.random.default_rng([len(set(trials)), seeds, len(report)])
    parts = [
        null.tuned_cells(rng, tables // len(RATIOS), trials, seeds, ratio, report=report, **more)
        for ratio in RATIOS
    ]
    return null.reported(chain(*parts))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("report", "trials"),
    [("sweep", (4,) * 4), ("sweep", (1, 8, 8, 8)), ("fresh", (1, 8, 8, 8))],
    ids=["sweep-equal", "sweep-unequal", "fresh-unequal"],
)
def test_equal_trials_reported_with_fresh_seeds_claim_nothing(
    report: str, trials: tuple[int, ...], seeds: int
) -> None:
    means = chosen(report, trials, seeds, 120)
    assert means.shape == (120, len(trials), seeds), "the fresh seeds and no others"
    share, low, _ = null.share_with_a_finding(null.blocked_p(means))
    assert low <= 0.05, f"{100 * share:.1f} % of null tables hold a finding"
    # the best of eight is no better here than the only one; a seed that chose would say so
    gap = means[:, 1:].mean(axis=(1, 2)) - means[:, 0].mean(axis=1)
    assert abs(gap.mean()) < 3.5 * gap.std(ddof=1) / np.sqrt(len(gap))


def test_seeds_that_chose_flatter_what_was_tuned_more() -> None:
    """Why `ablate table` refuses to report the seeds that chose; and the test above can fail."""
    means = chosen("reuse", (1, 8, 8, 8), 2, 120)
    gap = means[:, 1:].mean(axis=(1, 2)) - means[:, 0].mean(axis=1)
    assert gap.mean() > 8 * gap.std(ddof=1) / np.sqrt(len(gap))


@pytest.mark.parametrize(("trials", "tuning_seeds"), [(4, 1), (8, 1), (6, 2)])
@pytest.mark.parametrize("quality", [0.5, 1.0, 2.0])
def test_the_luck_of_the_draw_is_sized_from_the_trials(
    trials: int, tuning_seeds: int, quality: float
) -> None:
    """Identical arms whose trials differ; quality in standard deviations of a run's noise."""
    rng = np.random.default_rng([trials, round(10 * quality)])
    tables = list(
        null.tuned_cells(
            rng, 40, (trials,) * 5, 3, 1.0, report="sweep", quality=quality * np.sqrt(2),
            tuning_seeds=tuning_seeds,
        )
    )  # fmt: skip
    true = null.reported(tables, "quality")[:, :, 0]
    luck = np.sqrt(2 * true.var(axis=1, ddof=1).mean())
    told = [draw_of_trials(cells, noise(null.reported([cells], "valid")[0])) for cells in tables]
    assert 0.5 < np.sqrt(np.mean(np.square(told))) / luck < 2
    # none of it is in the test: that is why a note must tell it
    share, low, _ = null.share_with_a_finding(null.blocked_p(null.reported(tables)))
    if quality == 2:
        assert low > 0.05, f"{share:.2f}"


def noise(values: Scores) -> float:
    """The blocked variance of one table's runs, float[A, S]."""
    arms, seeds = values.shape
    names, blocks = np.repeat(np.arange(arms), seeds), np.tile(np.arange(seeds), arms)
    return float(fit_blocks(names.tolist(), blocks.tolist(), values.ravel()).variance)


def test_trials_that_are_all_the_same_show_little_luck() -> None:
    rng = np.random.default_rng(5)
    tables = list(null.tuned_cells(rng, 40, (8,) * 5, 3, 1.0, report="sweep"))
    told = [draw_of_trials(cells, noise(null.reported([cells], "valid")[0])) for cells in tables]
    gaps = [
        np.sqrt(2 * np.mean([np.diff(sorted(v for _, v in c.tried)[-2:]) ** 2 for c in cells]))
        for cells in tables
    ]
    assert np.median(told) < 0.5 * np.median(gaps), "the gap of such trials is noise"
    assert np.isnan(draw_of_trials([], 1.0))


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
    values = null.null_means(rng, TABLES, 6, 3, 2.0).reshape(TABLES, -1)[:, keep]
    fit = fit_blocks(names.tolist(), blocks.tolist(), values)
    gap, se = fit.contrast(fit.pairs([(arm, 0) for arm in range(1, 6)]))
    share, low, _ = null.share_with_a_finding(holm(two_sided(gap / se, fit.df)))
    assert share > 0.01
    assert low <= 0.05
