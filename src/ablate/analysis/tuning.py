"""Tuned cells: one trial per arm chosen on valid, reported on other splits with fresh seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ablate.errors import DataError


@dataclass(frozen=True)
class Tuned:
    """The chosen trial's reported runs, and how it was chosen.

    spread: best, median and worst trial's mean of the choosing metric; tried: each trial's.
    reused: the reported seeds took part in the choice.
    """

    frame: pd.DataFrame
    chosen: str
    trials: int
    spread: tuple[float, float, float]
    reused: bool
    tried: tuple[tuple[str, float], ...] = ()
    #: seeds that each trial was judged by
    seeds: int = 1
    #: the settings in which the trials differ, as columns of the runs
    settings: tuple[str, ...] = ()
    #: of them those whose chosen value is the smallest or the largest that was tried
    edges: dict[str, str] = field(default_factory=dict)


def choose(
    runs: pd.DataFrame, by: str, *, better: int = 1, reuse: bool = False, name: str = "the cell"
) -> Tuned:
    """Chooses a trial by its mean of `by` over the seeds that every trial has.

    Those seeds are spent: the report uses only the chosen trial's other seeds, because the best of
    several trials is partly the luckiest one.

    Args:
        runs: one cell's runs with the columns trial and seed, and the metric `by` (on valid). With
            a column phase, the runs of phase `tune` chose those of phase `report`.
        better: 1 where more is better, -1 where less is.
        reuse: report the spent seeds too, where there are no fresh ones.

    Raises:
        DataError: no seed that all trials have, or no fresh seed (unless `reuse`).
    """
    if "phase" in runs:
        return _as_the_sweep_chose(runs, by, better, name)
    trials = list(dict.fromkeys(runs["trial"]))
    if len(trials) == 1:
        value = float(runs[by].mean())
        return Tuned(runs, trials[0], 1, (value,) * 3, False, ((trials[0], value),))
    seeds = set.intersection(*(set(runs.loc[runs["trial"] == t, "seed"]) for t in trials))
    if not seeds:
        raise DataError(
            f"{name} holds {len(trials)} trials with no seed in common, so the choice between them "
            "would be a choice between seeds. Run every trial with the same seeds"
        )
    spent = runs[runs["seed"].isin(seeds)]
    means = spent.groupby("trial", sort=False)[by].mean() * better
    best = str(means.idxmax())
    mine = runs[runs["trial"] == best]
    # a seed that any two trials share took part in somebody's comparison
    counts = runs.groupby("seed")["trial"].nunique()
    fresh = mine[mine["seed"].map(counts) == 1]
    values = better * np.sort(means.to_numpy())[::-1]
    spread = (float(values[0]), float(np.median(values)), float(values[-1]))
    tried = tuple((str(trial), better * float(value)) for trial, value in means.items())
    if len(fresh):
        return Tuned(fresh, best, len(trials), spread, False, tried, len(seeds))
    if reuse:
        return Tuned(mine, best, len(trials), spread, True, tried, len(seeds))
    raise DataError(
        f"{name}: the best of {len(trials)} trials ({best}) has no seeds but those that chose it, "
        "so its value is partly luck. Run it with fresh seeds, or say --reuse-seeds and the table "
        "will carry a note"
    )


def _as_the_sweep_chose(runs: pd.DataFrame, by: str, better: int, name: str) -> Tuned:
    """The runs that the sweep's second phase made, beside the trials of its first."""
    tried, made = runs[runs["phase"] == "tune"], runs[runs["phase"] == "report"]
    if tried.empty:
        raise DataError(
            f"{name} holds runs that report a best trial, and none of the trials: seeds of trials "
            "are others, so a seed is no row or column of a tuned sweep"
        )
    complete = tried.groupby("trial", sort=False)["seed"].nunique()
    complete = complete[complete == complete.max()]
    means = tried.groupby("trial", sort=False)[by].mean()[complete.index] * better
    values = better * np.sort(means.to_numpy())[::-1]
    chosen = list(dict.fromkeys(made["trial"]))
    best = str(means.idxmax())
    if chosen != [best]:
        raise DataError(
            f"{name}: the sweep reports {', '.join(chosen)}, and {best} is the best trial now, "
            "because trials were added. Give the command of the sweep again: it chooses anew"
        )
    spread = (float(values[0]), float(np.median(values)), float(values[-1]))
    tried = tuple((str(trial), better * float(value)) for trial, value in means.items())
    return Tuned(made, best, len(means), spread, False, tried, int(complete.max()))


def draw_of_trials(cells: Sequence[Tuned], variance: float) -> float:
    """What the draw of trials adds to the difference of two cells, as a standard deviation.

    A cell's best trial is better than another cell's by luck too: each had a few draws, and its
    choice was one comparison. The gap between the best and the second best is about as large as the
    spread of the best itself (for normal draws 1.2 times, for exponential 1.1, for uniform 0.7
    times). Of it only the part counts that is not the runs' own noise: the share of
    the variance between trials of a cell that is left without it.

    Args:
        cells: those of one table.
        variance: of one run's value on valid, given its trial and seed; NaN where it is not known,
            which counts as none.

    Returns:
        √2 × the root mean square of the gaps × the root of that share; NaN where no cell had two
        trials. In simulated studies within a factor of two of the truth if trials differ by half
        a run's noise or more (tests/analysis/test_null_tables.py).
    """
    gaps, squares, df, noise = [], 0.0, 0, 0.0
    for cell in cells:
        values = np.array([value for _, value in cell.tried])
        if len(values) < 2:
            continue
        # the spread goes from the best to the worst, whichever way that is
        ordered = np.sort(values) if cell.spread[0] < cell.spread[2] else np.sort(values)[::-1]
        gaps.append(ordered[0] - ordered[1])
        squares += float(((values - values.mean()) ** 2).sum())
        df += len(values) - 1
        noise += (len(values) - 1) * (0.0 if np.isnan(variance) else variance / cell.seeds)
    if not gaps:
        return float("nan")
    share = max(0.0, 1 - noise / squares) if squares > 0 else 0.0
    return float(np.sqrt(2 * np.mean(np.square(gaps)) * share))
