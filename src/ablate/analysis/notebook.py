"""What the notebooks share: opening a study that may lack arms, tables and figures to show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.analysis import arms
from ablate.analysis import report_html as h
from ablate.analysis.build import build
from ablate.analysis.caption import study_notes
from ablate.analysis.margins import read_margin
from ablate.analysis.table import AblationTable, Question
from ablate.errors import AblateError, StoreError
from ablate.results import Study, load_study
from ablate.results.rows import FACTORS
from ablate.results.sweeps import fixed_margin


class Shown:
    """HTML that a notebook displays, and its text elsewhere."""

    def __init__(self, html: str) -> None:
        self.html = html

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        # what is committed beside the HTML
        return "(a table, shown as HTML)"


@dataclass(frozen=True)
class View:
    """The runs of a question. `told` says what is missing for it."""

    study: Study
    frame: pd.DataFrame
    lacking: pd.DataFrame
    told: list[str]

    def __bool__(self) -> bool:
        return len(self.frame) > 0

    def __repr__(self) -> str:
        return "\n".join(self.told)

    def table(
        self,
        rows: Sequence[str],
        cols: Sequence[str] = (),
        metrics: Sequence[str] = ("reward/test",),
        baseline: str | None = None,
        margin: float | None = None,
    ) -> AblationTable | None:
        """A tested table, or None where the runs cannot answer (the reason is in `told`).

        Rows are what was asked for and whatever else the runs of the study differ in by design:
        only hyper-parameters are chosen among, on valid, and where there are no fresh seeds the
        same are reported with a note. A baseline that fits no row gives way to the sweep's own.
        """
        if self.frame.empty:
            return None
        fixed = self.study.settings
        by_design = [*FACTORS, *_listed(fixed.get("rows")), *_listed(fixed.get("cols"))]
        more = [name for name in by_design if name not in (*rows, *cols, "seed")]
        across = tuple(name for name in cols if self._varies(name))
        down = tuple(name for name in dict.fromkeys([*rows, *more]) if self._varies(name))
        share = None
        if margin is None:
            margin, share = read_margin(fixed_margin(fixed, metrics[0]))
        question = Question(
            rows=down or tuple(rows[:1]),
            cols=across,
            metrics=tuple(metrics),
            baseline=baseline,
            margin=margin,
            margin_share=share,
            choose_by=str(fixed.get("choose") or "reward/valid"),
        )
        bases: list[str | None] = [None]
        if baseline is not None:
            bases = list(dict.fromkeys([baseline, fixed.get("baseline"), None]))
        reason = ""
        for base in bases:
            for reuse in (False, True):
                one = replace(question, baseline=base, reuse_seeds=reuse)
                try:
                    made = build(self.frame, self.lacking, one)
                except AblateError as error:
                    reason = str(error).splitlines()[0]
                    continue
                made.notes += study_notes(made, self.study.notes)
                return made
        self.told.append(reason)
        return None

    def _varies(self, name: str) -> bool:
        try:
            column = arms.column_of(self.frame, name)
        except AblateError:
            return False
        return arms.texts(self.frame[column]).nunique() > 1


def _listed(value: Any) -> list[str]:
    """Names that a sweep file gave as a list, or as one text."""
    if value is None:
        return []
    return str(value).split(",") if isinstance(value, str) else [str(name) for name in value]


def open_study(results_dir: str, sweep: str | None = None, where: Sequence[str] = ()) -> View:
    """The runs of a sweep that fulfil `where`; what is not there is told and no error.

    Args:
        results_dir: a results folder, from here or from the folder above.
        sweep: a name; where the store has no such sweep, all of its runs are taken.
        where: `setting=value` or `setting=value,value`.

    Raises:
        StoreError: no such folder.
    """
    root = Path(results_dir)
    if not root.is_dir() and (Path("..") / root).is_dir():
        root = Path("..") / root
    told = []
    try:
        study = load_study(root, sweep)
    except StoreError as error:
        if sweep is None or not root.is_dir():
            raise
        told.append(f"{str(error).split(';')[0]}: all runs of the store are taken")
        study = load_study(root)
    frame, lacking = study.frame, study.lacking
    for condition in where:
        frame, lost = _kept(frame, condition)
        lacking, _ = _kept(lacking, condition)
        told += lost
    told += [str(item) for item in study.damaged]
    if frame.empty:
        told.append("no finished run answers this question")
    else:
        told.append(f"{len(frame)} runs, seeds {', '.join(map(str, sorted(set(frame['seed']))))}")
    if len(lacking):
        told.append(f"{len(lacking)} runs that were asked for are not there")
    return View(study, frame, lacking, told)


def _kept(frame: pd.DataFrame, condition: str) -> tuple[pd.DataFrame, list[str]]:
    """The runs that fulfil a condition, and which of its values no run has."""
    word, _, values = condition.partition("=")
    if frame.empty:
        return frame, []
    try:
        words = arms.texts(frame[arms.column_of(frame, word)])
    except AblateError:
        return frame.iloc[:0], [f"no run has the setting {word}"]
    wanted = values.split(",")
    lost = [value for value in wanted if value not in set(words)]
    return frame[words.isin(wanted)], [f"not in the study: {word}={value}" for value in lost]


def show(table: AblationTable | None, view: View) -> Shown:
    """A table with its differences, caption and notes; or why there is none."""
    if table is None:
        return Shown(h.points(["no table", *view.told[-2:]]))
    parts = [h.table_of(table)]
    parts += [h.comparisons(table, metric) for metric in table.metrics]
    parts += [h.paragraph(table.caption), h.points(table.notes)]
    return Shown("\n".join(part for part in parts if part))


def draw(make: Callable[[AblationTable], Any], table: AblationTable | None) -> Any:
    """A figure of a table, or a sentence where there is nothing to draw."""
    made = None if table is None else make(table)
    return Shown("<p>nothing to draw: these runs do not record it</p>") if made is None else made
