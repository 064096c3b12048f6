"""What a reader must know beside the numbers: a note on everything unusual."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analysis import arms
from ablate.analysis.caption import name_of, number, title
from ablate.analysis.confounded import confounded
from ablate.analysis.frontier import CHORD, READ, RECORDED
from ablate.analysis.margins import best_offline_gain
from ablate.analysis.power_notes import power_notes
from ablate.analysis.table import AblationTable
from ablate.analysis.tuning_notes import tuning_notes
from ablate.metrics import describe

#: settings of the answers' sampling
_DRAWN = "config.evaluation.sampling."
#: reasons of failed runs that are told one by one
REASONS_TOLD = 5
#: p-value (corrected) below which a cell's larger spread is noted
UNEVEN = 0.01
#: share of the best offline gain above which a margin is called wide
WIDE_MARGIN = 0.15
#: cells whose tokens differ by more than this share had unequal compute
COMPUTE_TOLERANCE = 0.02


def notes(table: AblationTable, left_out: list[str]) -> list[str]:
    """One sentence on everything that qualifies the table.

    Args:
        left_out: short ids of older runs that newer ones with equal settings replaced.
    """
    return [
        *_missing(table),
        *_short_of_kl(table),
        *_without_value(table),
        *_seeds(table),
        *_untested(table),
        *_doubtful(table),
        *_confounded(table),
        *_unequal(table),
        *tuning_notes(table),
        *power_notes(table),
        *_margin(table),
        *_provenance(table, left_out),
    ]


def _missing(table: AblationTable) -> Iterator[str]:
    if table.lacking.empty:
        return
    counts = table.lacking["state"].value_counts()
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    yield f"not every run is there: {told}; the means are over those that are"
    for line in table.lacking.head(REASONS_TOLD).itertuples():
        reason = str(line.reason).splitlines()[0]
        yield f"  {line.state} {line.id[:12]} {name_of(table, line.row, line.col)}: {reason}"
    if len(table.lacking) > REASONS_TOLD:
        yield f"  and {len(table.lacking) - REASONS_TOLD} more (ablate ls)"


def _without_value(table: AblationTable) -> Iterator[str]:
    for metric in table.metrics:
        lost = table.distinct[table.distinct[metric].isna()]
        if len(lost):
            cells = dict.fromkeys(name_of(table, *arm) for arm in lost["arm"])
            yield f"{title(metric)}: {len(lost)} runs have no value ({'; '.join(cells)})"


def _short_of_kl(table: AblationTable) -> Iterator[str]:
    if table.short_of_kl:
        yield f"left out, because they stay below that KL: {'; '.join(table.short_of_kl)}"
    if READ not in table.runs:
        return
    found = {
        how: dict.fromkeys(name_of(table, *arm) for arm in part["arm"])
        for how, part in table.runs.groupby(READ, sort=False)
    }
    if RECORDED in found:
        yield (
            "read along the curve that runs recorded while they trained (its shape, on valid "
            f"prompts): {'; '.join(found[RECORDED])}"
        )
    if CHORD in found:
        yield (
            "not tested, and no cell in bold: these values lie between the SFT policy and the "
            "nearest point known of a run, on a line over the root of KL. That law (arXiv "
            "2210.10760) is assumed; runs of the same seeds closer to SFT (larger β), or "
            f"collection.curve_every, would show what is true: {'; '.join(found[CHORD])}"
        )


def _seeds(table: AblationTable) -> Iterator[str]:
    cells = table.filled
    single = [name_of(table, e.row, e.col) for e in cells if len(e.seeds) == 1]
    if single:
        yield f"one seed, so no interval: {'; '.join(single)}"
    seeds = {e.seeds for e in cells}
    if len(seeds) > 1:
        sizes = sorted({len(s) for s in seeds})
        what = f"{sizes[0]} to {sizes[-1]} per cell" if len(sizes) > 1 else "not the same ones"
        yield (
            f"unequal seeds: {what}; differences are adjusted for the seeds that a cell lacks "
            "(least squares)"
        )
    elif len(next(iter(seeds))) == 2:
        yield "two seeds give very wide intervals; three to five are worth their time"
    scopes = table.runs.get("config.seed.scope", pd.Series(dtype=str)).dropna().unique()
    if len(scopes) > 1:
        yield f"mixed seed scopes ({', '.join(scopes)}): seeds do not redraw the same things"
    diverged = [e for e in cells if e.diverged]
    if diverged:
        told = "; ".join(
            f"{name_of(table, e.row, e.col)} {e.diverged} of {e.runs}" for e in diverged
        )
        yield f"diverged, scored at the last finite checkpoint and counted in the mean: {told}"


def _untested(table: AblationTable) -> Iterator[str]:
    if table.question.baseline is None and len(table.filled) > 1:
        yield "differences are not tested: name a baseline (--baseline)"
    against = [metric for metric in table.metrics if describe(metric).against]
    if against:
        yield (
            f"{', '.join(against)}: paired with the baseline's run of the same seed, intervals "
            "over seeds; not tested beside the metrics they derive from"
        )
    # the baseline under another name is no cell without one
    baselines = {table.twins[e.row, e.col] for e in table.filled if e.is_baseline}
    alone = [
        name_of(table, e.row, e.col)
        for e in table.filled
        if table.question.baseline is not None
        and e.comparison is None
        and table.twins[e.row, e.col] not in baselines
        and not describe(e.metric).against
        and not table.short_of_kl
        and table.matched_kl is None
    ]
    if alone:
        yield f"not compared, because the baseline has no finished run there: {'; '.join(alone)}"
    lost = table.comparisons[table.comparisons["difference"].isna()]
    if len(lost):
        told = "; ".join(dict.fromkeys(name_of(table, *arm) for arm in lost["arm"]))
        yield (
            "not compared, because no seed with the same SFT policy links it to the baseline: "
            f"{told}"
        )
    known = table.comparisons["difference"].notna()
    stuck = table.comparisons[known & table.comparisons["p"].isna()]
    if len(stuck) and (stuck["df"] > 0).any():
        yield "runs of different seeds hold identical numbers: there is no spread to test with"
    elif len(stuck):
        yield "differences cannot be tested with one seed: only a second one shows the spread"
    crossing = table.comparisons[
        table.comparisons["significant"]
        & (table.comparisons["low"] < 0)
        & (table.comparisons["high"] > 0)
    ]
    if len(crossing):
        told = "; ".join(name_of(table, *arm) for arm in crossing["arm"])
        yield (
            "(*) significant by Holm's procedure, while the simultaneous interval, which is "
            f"wider, still holds 0: {told}"
        )


def _doubtful(table: AblationTable) -> Iterator[str]:
    """Cells of the same runs, other identical rows, and cells that spread very differently."""
    groups: dict[Any, list[str]] = {}
    for arm, first in table.twins.items():
        groups.setdefault(first, []).append(name_of(table, *arm))
    shared = [" = ".join(names) for names in groups.values() if len(names) > 1]
    if shared:
        once = ", and are tested once" if len(table.comparisons) else ""
        yield f"the same results stand in several cells{once}: {'; '.join(shared)}"
    pairs = [" and ".join(name_of(table, *arm) for arm in pair) for pair in table.repeated.shared]
    if pairs:
        yield (
            "cells report different checkpoints of the same policies, which the tests take for "
            f"independent runs: {'; '.join(pairs)}"
        )
    seen: dict[tuple[float, ...], str] = {}
    for row in table.rows:
        values = tuple(
            table.entries[row, col, metric].mean for metric in table.metrics for col in table.cols
        )
        if all(math.isnan(value) for value in values):
            continue
        title_of_row = " ".join(row) or "all runs"
        if all(table.twins.get((row, col)) not in (None, (row, col)) for col in table.cols):
            continue
        same = next((name for other, name in seen.items() if _same(other, values)), None)
        if same is not None:
            yield (
                f"rows {same} and {title_of_row} hold identical numbers: they may be the same run "
                "under two names"
            )
        seen.setdefault(values, title_of_row)
    for metric in table.metrics:
        if describe(metric).against:
            continue
        uneven = _uneven(table, metric)
        if uneven is not None:
            yield uneven


def _same(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return bool(np.array_equal(np.array(first), np.array(second), equal_nan=True))


def _uneven(table: AblationTable, metric: str) -> str | None:
    """A note where one cell spreads more than the others, by an F test (Bonferroni over cells)."""
    for part in table.fits:
        wide = part.pivot(index="block", columns="arm", values=metric).dropna(axis=1)
        blocks, count = wide.shape
        if count < 3 or blocks < 3:
            continue
        values = wide.to_numpy(dtype=float)
        for place, arm in enumerate(wide.columns):
            others = np.delete(values, place, axis=1)
            left = others - others.mean(axis=1, keepdims=True)
            left -= left.mean(axis=0, keepdims=True)
            df = (blocks - 1) * (count - 2)
            pooled = float((left**2).sum()) / df
            if pooled <= 0:
                continue
            # what the others' mean adds to the spread of the difference is theirs
            own = float((values[:, place] - others.mean(axis=1)).var(ddof=1))
            ratio = own / (pooled * (1 + 1 / (count - 1)))
            if count * float(stats.f.sf(ratio, blocks - 1, df)) < UNEVEN:
                times = math.sqrt(max(own - pooled / (count - 1), 0) / pooled)
                return (
                    f"{title(metric)}: {name_of(table, *arm)} varies {times:.1f} times as much "
                    "between seeds as the other cells; the pooled variance is too small for it "
                    "and too large for them"
                )
    return None


def _margin(table: AblationTable) -> Iterator[str]:
    """Where a margin is wide for these runs: it may have been fixed for another scale."""
    margin, first = table.question.margin, table.metrics[0]
    gain = best_offline_gain(table.runs, first) if table.same_scale else None
    if margin is None or gain is None or margin <= WIDE_MARGIN * gain:
        return
    yield (
        f"the margin, {number(margin, first)}, is {100 * margin / gain:.0f} % of the best offline "
        f"gain over SFT here ({number(gain, first)}): ≈ says little; 10 % would be "
        f"{number(gain / 10, first)}"
    )


def _confounded(table: AblationTable) -> Iterator[str]:
    factors = [arms.column_of(table.runs, name) for name in (*table.row_names, *table.col_names)]
    found = confounded(table.runs, factors, table.differing, table.tuned)
    if found:
        yield (
            "cells differ in settings that are neither rows nor columns, and a difference between "
            "them can be due to these:"
        )
        yield from (f"  {line}" for line in found)


def _unequal(table: AblationTable) -> Iterator[str]:
    runs = table.runs
    for metric in table.metrics:
        counts = runs.get(f"{metric}/n")
        if counts is not None and counts.dropna().nunique() > 1:
            yield (
                f"unequal prompts: {title(metric)} is over {int(counts.min())} to "
                f"{int(counts.max())} prompts"
            )
    spent = runs.groupby(["row", "col"], sort=False)["tokens_trained"].mean()
    if len(spent) > 1 and spent.min() < (1 - COMPUTE_TOLERANCE) * spent.max():
        low, high = spent.idxmin(), spent.idxmax()
        yield (
            f"unequal compute: {spent.min():,.0f} tokens trained ({name_of(table, *low)}) to "
            f"{spent.max():,.0f} ({name_of(table, *high)})"
        )
    if any(metric.startswith(("win_rate/", "win_rate_lc/")) for metric in table.metrics):
        known = "stage.answers" in runs
        if known and runs.groupby("seed")["stage.answers"].nunique().max() > 1:
            yield "win rates are against each cell's own SFT policy, which is not the same for all"
    if any(metric.startswith(("kl/", "kl_reference/")) for metric in table.metrics):
        drawn = {f"{_DRAWN}temperature": 1, f"{_DRAWN}top_p": 1, f"{_DRAWN}top_k": 0}
        if any(name in runs and (runs[name] != value).any() for name, value in drawn.items()):
            yield (
                "KL is taken along answers that were not drawn at temperature 1 without cuts: it "
                "is no estimate of KL(π ‖ SFT)"
            )
        cut = max(
            (
                float(runs[c].max())
                for c in runs
                if c.startswith("truncated/") and c.count("/") == 1
            ),
            default=0.0,
        )
        if cut > 0.01:
            yield (
                f"up to {100 * cut:.0f} % of answers were cut at the maximum length: "
                "KL counts their tokens up to the cut"
            )


def _provenance(table: AblationTable, left_out: list[str]) -> Iterator[str]:
    commits = table.runs["commit"].map(arms.plain)
    if commits.nunique() > 1:
        told = ", ".join(f"{str(c)[:10]} ({n} runs)" for c, n in commits.value_counts().items())
        yield f"runs come from different commits of ablate: {told}"
    if left_out:
        yield (
            f"{len(left_out)} older runs with the same settings and seed were left out (ablate's "
            f"code or a file changed between them): {', '.join(left_out[:REASONS_TOLD])}"
        )
