"""What a table says of its tuned cells: what was chosen, and how far the choice can be luck."""

import math
from collections.abc import Iterator

from ablate.analysis import arms
from ablate.analysis.blocked import fit_blocks
from ablate.analysis.caption import name_of, number
from ablate.analysis.table import AblationTable
from ablate.analysis.tuning import Tuned, draw_of_trials
from ablate.metrics import describe

#: marks of a chosen value that is at an end of what was tried
LOW, HIGH = "↓", "↑"


def chosen_notes(table: AblationTable) -> list[str]:
    """What each tuned cell was chosen for, and how much the choice mattered."""
    tuned = [(e, e.tuned) for e in table.filled if e.tuned is not None]
    if not tuned:
        return []
    by = table.question.choose_by or ""
    told = ["chosen on valid (in brackets: the best, median and worst trial there):"]
    for e, found in tuned:
        values = ", ".join(number(value, by) for value in found.spread)
        name = name_of(table, e.row, e.col)
        told.append(f"  {name}: best of {found.trials} trials, {_settings(found)} ({values})")
    if any(found.edges for _, found in tuned):
        told.append(f"{LOW} or {HIGH}: the smallest or largest tried; the optimum may lie beyond")
    return told


def _settings(found: Tuned) -> str:
    """The chosen trial, with a mark at each setting that is at an end of what was tried."""
    told = found.chosen
    for name, end in found.edges.items():
        word = next(w for w in found.chosen.split(" ") if w.startswith(f"{arms.short(name)}="))
        told = told.replace(word, f"{word}{LOW if end == 'smallest' else HIGH}")
    return told


def tuning_notes(table: AblationTable) -> Iterator[str]:
    """What each tuned cell was chosen for, and what the choice does to differences."""
    tuned = [e for e in table.filled if e.tuned is not None]
    if not tuned:
        return
    yield from chosen_notes(table)
    yield from _luck(table, [found for e in tuned if (found := e.tuned) is not None])
    trials = {e.tuned.trials if e.tuned is not None else 1 for e in table.filled}
    if len(trials) > 1:
        yield (
            f"unequal tuning: {min(trials)} to {max(trials)} trials per cell; more trials find "
            "better ones"
        )
    if any(e.tuned is not None and e.tuned.reused for e in tuned):
        yield (
            "hyper-parameters were chosen with the same seeds that are reported: the means flatter "
            "tuned cells; fresh seeds would not"
        )


def _luck(table: AblationTable, tuned: list[Tuned]) -> Iterator[str]:
    """How large a difference the draw of trials makes by itself, as the trials show it."""
    by = table.question.choose_by or ""
    chosen = [cell for cell in tuned if cell.trials > 1]
    if not chosen or not table.same_scale or table.comparisons.empty:
        return
    # the noise of the choice, from the reported runs' values of what was chosen by
    runs = table.distinct
    runs = runs[runs[by].notna()] if by in runs else runs.iloc[:0]
    variance = math.nan
    if len(runs):
        fit = fit_blocks(runs["arm"].tolist(), runs["block"].tolist(), runs[by].to_numpy(float))
        variance = float(fit.variance)
    spread = draw_of_trials(chosen, variance)
    told = "differences are between the chosen trials, and the luck of their draw is in no interval"
    if spread == 0:
        yield f"{told}; on valid, trials of a cell differ no more than seeds do"
        return
    yield (
        f"{told}: it moves them by about {number(spread, by)} in {describe(by).title} (one "
        "standard deviation, from the gap between the best and the second best trial of each cell "
        f"on valid), so those below about {number(2 * spread, by)} may be that luck alone"
    )
