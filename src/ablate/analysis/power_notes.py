"""What a table could have found, and what its largest unproven difference would take to prove."""

import math
from collections.abc import Iterator

import numpy as np

from ablate.analysis.caption import name_of, number
from ablate.analysis.measure import answer_values
from ablate.analysis.power import detectable, prompts_needed, seeds_needed, spread
from ablate.analysis.power_equal import equivalence_power, seeds_to_equal
from ablate.analysis.table import AblationTable
from ablate.errors import StoreError
from ablate.metrics import describe

#: tables of more runs do not read all their answers for a note
RUNS_READ = 200
#: with this probability a difference, or that there is none, would be shown
WANTED = 0.8


def power_notes(table: AblationTable) -> Iterator[str]:
    """What this table could have found, and what the largest unproven difference would take."""
    metric = table.metrics[0]
    found = table.comparisons
    mine = found[found["stratum"].astype(str).str.split(" ").str[0] == metric]
    mine = mine[mine["p"].notna()]
    if mine.empty or not table.same_scale:
        return
    cells = [e for e in table.entries.values() if e.metric == metric and e.runs]
    seeds, family = min(len(e.seeds) for e in cells), int(found["p"].notna().sum())
    # of several fits, which have a column each, the largest stands for all
    count = max(part["arm"].nunique() for part in table.fits)
    sd = float(np.sqrt((mine.groupby("stratum")["sd"].first() ** 2).mean()))
    least = detectable(sd, seeds, count, family)
    if math.isfinite(least):
        yield (
            f"power: {seeds} seeds find a difference of {number(least, metric)} in "
            f"{describe(metric).title} with 80 % probability"
        )
    if table.question.margin is not None:
        yield from _equal(table, seeds, count, len(mine), sd)
    open_ones = mine[~mine["significant"]]
    if len(open_ones) == 0:
        return
    largest = open_ones.loc[open_ones["difference"].abs().idxmax()]
    if largest["difference"] != 0:
        needed = seeds_needed(float(largest["difference"]), sd, count, family)
        many = "more than 10,000" if needed is None else f"{needed}"
        yield (
            "the largest unproven difference, "
            f"{number(float(largest['difference']), metric, sign=True)} "
            f"({name_of(table, *largest['arm'])}), if it is real, takes about {many} seeds per "
            "cell to prove"
            + _prompts_told(table, metric, float(largest["difference"]), seeds, count, family)
        )


def _equal(
    table: AblationTable, seeds: int, cells: int, comparisons: int, sd: float
) -> Iterator[str]:
    """Whether these seeds could have shown that nothing differs."""
    metric, margin = table.metrics[0], table.question.margin
    if margin is None or seeds < 2:
        return
    share = equivalence_power(margin, sd, seeds, cells, comparisons)
    if share >= WANTED:
        return
    needed = seeds_to_equal(margin, sd, cells, comparisons)
    many = "more than 10,000" if needed is None else f"about {needed}"
    yield (
        f"≈ would take {many} seeds per cell even if nothing differed: with {seeds} seeds and a "
        f"margin of {number(margin, metric)}, {100 * share:.0f} % of equal cells are shown to be"
    )


def _prompts_told(
    table: AblationTable, metric: str, difference: float, seeds: int, cells: int, family: int
) -> str:
    """What more prompts would do, where it can be told from the stored answers at little cost."""
    name, _, split = metric.partition("/")
    if name != "reward" or len(table.runs) > RUNS_READ or seeds < 2:
        return ""
    try:
        runs = table.distinct
        answers = answer_values(runs, split).merge(runs[["id", "arm", "block"]], on="id")
        found = spread(answers)
    except (StoreError, ValueError):
        # a damaged table of answers, or no prompts in common: nothing that this note must report
        return ""
    needed = prompts_needed(difference, found, seeds, cells, family)
    if needed is None:
        return f"; with {seeds} seeds no number of prompts would do"
    return f", or about {needed:,} prompts with {seeds} seeds"
