"""The parts of an ablation table: what is asked, one cell of one metric, and the whole."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ablate.analysis.repeats import Repeats, once
from ablate.analysis.tuning import Tuned
from ablate.metrics import describe

Key = tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """What a table is asked for.

    rows, cols: factors or settings; without rows, whatever the runs differ in. metrics: columns
    such as `reward/test`. baseline: a level of the rows (each column has its own baseline), or
    `setting=value,…` for one cell that all are compared with. margin: what counts as no
    difference, in the first metric's unit; without it `margin_share`, that share of the largest
    gain over SFT among the table's offline cells, if the first metric is judge reward. choose_by:
    the metric on valid that picks among the trials of a cell. matched_kl: judge reward at this KL,
    in nats, or at the largest that all reach (`max`), in place of the metrics.
    """

    rows: tuple[str, ...] = ()
    cols: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("reward/test",)
    baseline: str | None = None
    margin: float | None = None
    margin_share: float | None = None
    choose_by: str | None = None
    matched_kl: float | str | None = None
    reuse_seeds: bool = False
    #: settings that were tuned in each cell, where the runs at hand are the chosen ones alone
    tuned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One cell of one metric. Values in the metric's own unit; NaN where there is none.

    comparison: its row of `contrasts.differences`, None for a baseline. best: among the cells of
    its column that may be the best. runs: finished; lacking: state -> count of the others.
    """

    row: Key
    col: Key
    metric: str
    mean: float
    half: float
    runs: int
    seeds: tuple[int, ...]
    diverged: int
    lacking: dict[str, int]
    comparison: dict[str, Any] | None
    best: bool
    is_baseline: bool
    tuned: Tuned | None


@dataclass
class AblationTable:
    """A finished table; `entries` in reading order, `data` the same as a DataFrame."""

    row_names: list[str]
    col_names: list[str]
    rows: list[Key]
    cols: list[Key]
    metrics: list[str]
    entries: dict[tuple[Key, Key, str], Entry]
    comparisons: pd.DataFrame
    question: Question
    #: the runs that the table shows, with their arm, block and measured metrics
    runs: pd.DataFrame
    lacking: pd.DataFrame
    same_scale: bool
    repeated: Repeats
    #: the settings in which runs that were asked for differ, trials included
    differing: list[str]
    #: nats, where arms are compared at equal KL; and the curves that do not reach it
    matched_kl: float | None = None
    short_of_kl: list[str] = field(default_factory=list)
    #: the share of these runs' best offline gain that `question.margin` is, where nobody fixed it
    margin_share: float | None = None
    #: settings in which the runs of one curve differ
    along: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    caption: str = ""

    @property
    def filled(self) -> list[Entry]:
        """The entries of the first metric that have runs: one per cell."""
        return [e for e in self.entries.values() if e.metric == self.metrics[0] and e.runs]

    @property
    def tuned(self) -> tuple[str, ...]:
        """The settings that were tuned, as columns of the runs."""
        found = [name for e in self.filled if e.tuned is not None for name in e.tuned.settings]
        return tuple(dict.fromkeys([*found, *self.question.tuned]))

    @property
    def twins(self) -> dict[Any, Any]:
        """arm -> the first arm of its fit that holds the same results, mostly itself."""
        return self.repeated.twins

    @property
    def distinct(self) -> pd.DataFrame:
        """The runs, each once in its fit, also where a run stands in several cells."""
        return once(self.runs, self.twins)

    @property
    def fits(self) -> list[pd.DataFrame]:
        """The runs of each fit: one of the whole table, or one of each column."""
        if self.repeated.pooled:
            return [self.distinct]
        return [part for _, part in self.distinct.groupby("col", sort=False)]

    @property
    def data(self) -> pd.DataFrame:
        """One row per cell and metric with every number of the table."""
        return pd.DataFrame([self._flat(entry) for entry in self.entries.values()])

    def _flat(self, entry: Entry) -> dict[str, Any]:
        result: dict[str, Any] = dict(zip(self.row_names, entry.row, strict=True))
        result |= dict(zip(self.col_names, entry.col, strict=True))
        result |= {
            "metric": entry.metric, "unit": describe(entry.metric).unit, "mean": entry.mean,
            "half_width": entry.half, "runs": entry.runs,
            "seeds": " ".join(str(seed) for seed in entry.seeds), "diverged": entry.diverged,
            **{state: entry.lacking.get(state, 0) for state in ("failed", "missing", "damaged")},
            "baseline": entry.is_baseline, "among_best": entry.best,
        }  # fmt: skip
        told = [
            "difference", "se", "df", "t", "p", "p_holm", "significant", "low", "high", "effect",
            "p_equivalent_holm", "equivalent",
        ]  # fmt: skip
        compared = entry.comparison or {}
        result |= {name: compared.get(name, np.nan) for name in told}
        if entry.tuned is not None:
            best, median, worst = entry.tuned.spread
            result |= {
                "trials": entry.tuned.trials, "trial": entry.tuned.chosen,
                "valid_best": best, "valid_median": median, "valid_worst": worst,
            }  # fmt: skip
        return result
