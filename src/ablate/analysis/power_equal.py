"""How many seeds it takes to show that arms do not differ, by the tests that a table uses."""

import numpy as np

from ablate.analysis.contrasts import equivalence_p
from ablate.analysis.multiplicity import holm
from ablate.analysis.power import MOST_SEEDS, fewest

#: comparisons that are drawn to find a power, over as many tables as that makes
DRAWS, FEWEST_TABLES = 12_000, 8


def equivalence_power(
    margin: float, sd: float, seeds: int, arms: int, comparisons: int, alpha: float = 0.05
) -> float:
    """Share of comparisons that are shown to lie within ±margin when no arm differs at all.

    Two one-sided t tests of the blocked ANOVA, Holm over the comparisons, each of which is with
    the same baseline. Holm's steps depend on all of them together, so tables are drawn, always the
    same ones.

    Args:
        sd: standard deviation between runs of an arm once the seed's block effect is taken out.
    """
    df = (arms - 1) * (seeds - 1)
    if df < 1:
        return 0.0
    rng = np.random.default_rng(0)
    tables = max(DRAWS // comparisons, FEWEST_TABLES)
    baseline, others = rng.normal(size=(tables, 1)), rng.normal(size=(tables, comparisons))
    gap = (others - baseline) * sd / np.sqrt(seeds)
    se = sd * np.sqrt(rng.chisquare(df, (tables, 1)) / df * 2 / seeds)
    p = equivalence_p(gap, np.broadcast_to(se, gap.shape), df, margin)
    return float((holm(p) <= alpha).mean())


def seeds_to_equal(
    margin: float,
    sd: float,
    arms: int,
    comparisons: int,
    *,
    alpha: float = 0.05,
    wanted: float = 0.8,
) -> int | None:
    """The fewest seeds per arm with which arms that do not differ are shown not to, mostly.

    None where more than 10,000 would be needed.
    """
    return fewest(
        lambda seeds: equivalence_power(margin, sd, seeds, arms, comparisons, alpha) >= wanted,
        MOST_SEEDS,
    )
