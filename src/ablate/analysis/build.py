"""Building an ablation table from runs: cells, comparability, choice of trials, tests."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ablate.analysis import arms
from ablate.analysis.blocked import fit_blocks
from ablate.analysis.caption import caption
from ablate.analysis.cells import half_width, varied_settings
from ablate.analysis.contrasts import LEVEL, differences
from ablate.analysis.frontier import AT_KL, CHORD, READ, at_matched_kl
from ablate.analysis.margins import settle
from ablate.analysis.measure import PARTNER, measure, resolve
from ablate.analysis.multiplicity import possible_best
from ablate.analysis.notes import notes
from ablate.analysis.repeats import once, repeats
from ablate.analysis.reported import one_trial, without_trials
from ablate.analysis.table import AblationTable, Entry, Key, Question
from ablate.analysis.tuning import Tuned
from ablate.errors import ConfigError, DataError
from ablate.metrics import describe
from ablate.results.load import CURVE
from ablate.results.tables import read_tables


def build(frame: pd.DataFrame, lacking: pd.DataFrame, question: Question) -> AblationTable:
    """The table of some runs.

    Args:
        frame: finished runs as from `results.load`, those of every cell and no others.
        lacking: runs that were asked for and are not there, as in `results.Study`.

    Raises:
        ConfigError: an unknown factor or baseline, or a cell that would mix settings.
        DataError: no finished run, an unknown metric, or runs that were judged differently.
    """
    if frame.empty:
        raise DataError("there is no finished run to make a table of")
    metrics = [resolve(frame, word) for word in question.metrics]
    rows = [arms.column_of(frame, word) for word in question.rows]
    cols = [arms.column_of(frame, word) for word in question.cols]
    both = set(rows) & set(cols)
    if both:
        raise ConfigError(f"{', '.join(sorted(both))} cannot be both a row and a column")
    latest = arms.one_per_seed(frame)
    frame = latest.frame
    if not rows:
        rows = [name for name in varied_settings(frame) if name not in cols]
        rows = [name for name in rows if not name.startswith(arms.JUDGED_BY)]
    frame, lacking = _keyed(frame, rows, cols), _keyed(lacking, rows, cols)
    same_scale = _check_judges(frame, cols)
    differing = arms.trial_settings(frame)
    target, short, along = None, list[str](), list[str]()
    tuned: dict[tuple[Key, Key], Tuned] = {}
    if question.matched_kl is None or question.choose_by is not None:
        frame, tuned = one_trial(frame, rows, cols, question, differing)
    settled = settle(question, without_trials(frame), metrics[0], same_scale)
    share = question.margin_share if settled.margin != question.margin else None
    question = settled
    if question.matched_kl is not None:
        # without a choice, trials of a cell are points of one curve; those of a sweep's first
        # phase had other seeds and belong to no report
        frame = without_trials(frame)
        split = metrics[0].partition("/")[2]
        wanted = None if question.matched_kl == "max" else float(question.matched_kl)
        cells = frame.groupby(["row", "col"], sort=False)
        along = sorted({name for _, part in cells for name in arms.trial_settings(part, differing)})
        curves = read_tables(frame, CURVE)
        matched = at_matched_kl(frame, split, wanted, curves)
        frame, target, short = matched.frame, matched.kl, matched.short
        metrics = [f"{AT_KL}/{split}"]
    frame = frame.assign(
        block=_blocks(frame), arm=list(zip(frame["row"], frame["col"], strict=True))
    )
    baseline = _baseline(frame, rows, cols, question.baseline)
    frame = frame.assign(**{PARTNER: _partners(frame, baseline)})
    for metric in metrics:
        if describe(metric).against and not baseline and metric not in frame:
            raise ConfigError(f"{metric} is measured against a baseline: name one with --baseline")
        if tuned and metric.endswith("/valid"):
            raise DataError(
                f"{metric}: trials were chosen on valid, so valid flatters the chosen; "
                "report test or ood"
            )
        frame = measure(frame, metric)
    repeated = repeats(frame, baseline, same_scale)
    twins, pooled = repeated.twins, repeated.pooled
    tested = [metric for metric in metrics if not describe(metric).against]
    values = _long(frame, tested, pooled)
    guessed = set(frame.loc[frame[READ] == CHORD, "arm"]) if READ in frame else set()
    ranked = values.iloc[:0] if guessed else values
    values = once(values, twins)
    values = values[np.array([arm not in guessed for arm in values["arm"]], dtype=bool)]
    margin = None
    if question.margin is not None:
        first = values["metric"] == metrics[0]
        margin = dict.fromkeys(values.loc[first, "stratum"], question.margin)
    pairs = list(
        dict.fromkeys((twins[a], twins[other]) for a, other in baseline.items() if other in twins)
    )
    compared = differences(values, pairs, margin=margin)
    table = AblationTable(
        [arms.short(name) for name in rows], [arms.short(name) for name in cols],
        _order(frame, lacking, "row"), _order(frame, lacking, "col"), metrics, {}, compared,
        question, frame, lacking, same_scale, repeated, differing,
    )  # fmt: skip
    _fill(table, ranked, baseline, tuned)
    table.matched_kl, table.short_of_kl = target, short
    table.margin_share = share
    table.along = [arms.short(name) for name in along]
    table.caption = caption(table)
    table.notes = notes(table, latest.left_out)
    return table


def at_equal_kl(table: AblationTable, split: str) -> AblationTable:
    """Judge reward of a table's cells at the largest KL that all of them reach.

    Raises:
        AblateError: no KL, or none that all reach.
    """
    question = replace(
        table.question, matched_kl="max", margin=None, choose_by=None, tuned=table.tuned,
        metrics=(f"reward/{split}",), rows=tuple(table.row_names), cols=tuple(table.col_names),
    )  # fmt: skip
    return build(table.runs, pd.DataFrame(), question)


def _keyed(frame: pd.DataFrame, rows: list[str], cols: list[str]) -> pd.DataFrame:
    """Adds the columns row and col: tuples of levels as text."""

    def keys(names: list[str]) -> list[Key]:
        texts = [arms.texts(frame[name]) for name in names if name in frame]
        return list(zip(*texts, strict=True)) if texts else [()] * len(frame)

    row = pd.Series(keys(rows), index=frame.index, dtype=object)
    col = pd.Series(keys(cols), index=frame.index, dtype=object)
    return frame.assign(row=row, col=col)


def _check_judges(frame: pd.DataFrame, cols: list[str]) -> bool:
    """Refuses mixed judges among compared runs; True where all columns share one."""
    try:
        arms.check_comparable(frame, "these runs")
        return True
    except DataError:
        if not cols:
            raise
    for col, part in frame.groupby("col", sort=False):
        arms.check_comparable(part, f"the runs of column {' '.join(col)}")
    return False


def _blocks(frame: pd.DataFrame) -> list[str]:
    """What runs of a seed share: the seed, and the SFT policy where that is not the same for all.

    Where no two cells share an SFT policy (a table of base models), the seed alone is the block.
    """
    seeds = frame["seed"].map(str)
    if "stage.answers" not in frame or frame["stage.answers"].isna().any():
        return seeds.tolist()
    cell = frame["row"].map(str) + frame["col"].map(str)
    shared = cell.groupby([seeds, frame["stage.answers"]]).nunique().max() > 1
    return (seeds + " " + frame["stage.answers"]).tolist() if shared else seeds.tolist()


def _baseline(
    frame: pd.DataFrame, rows: list[str], cols: list[str], given: str | None
) -> dict[Any, Any]:
    """arm -> the arm it is compared with."""
    cells = list(dict.fromkeys(frame["arm"]))
    if given is None:
        return {}
    if "=" in given:
        chosen = arms.keep(frame, _conditions(given))["arm"]
        one = list(dict.fromkeys(chosen))
        runs = frame.groupby("arm", sort=False)["id"].agg(frozenset)
        if len({runs[arm] for arm in one}) != 1:
            raise ConfigError(
                f"--baseline {given} fits {len(one)} cells of the table; name every row and column"
            )
        return dict.fromkeys(cells, one[0])
    matching = [row for row in dict.fromkeys(frame["row"]) if given in (" ".join(row), *row)]
    if len(matching) != 1:
        there = ", ".join(dict.fromkeys(" ".join(row) for row in frame["row"]))
        raise ConfigError(
            f"--baseline {given} fits {len(matching)} rows of the table, and must fit one. "
            f"Rows: {there}"
        )
    return {(row, col): (matching[0], col) for row, col in cells}


def _conditions(given: str) -> list[str]:
    """`a=1,b=2` as conditions."""
    return [part for part in given.split(",") if part]


def _partners(frame: pd.DataFrame, baseline: dict[Any, Any]) -> list[str | None]:
    """Of each run the id of its baseline's run of the same block, None where there is none."""
    at = {
        (arm, block): i
        for arm, block, i in zip(frame["arm"], frame["block"], frame["id"], strict=True)
    }
    return [
        at.get((baseline.get(arm), block))
        for arm, block in zip(frame["arm"], frame["block"], strict=True)
    ]


def _long(frame: pd.DataFrame, metrics: list[str], pooled: bool) -> pd.DataFrame:
    """A row per run and metric; a metric, and a column with a fit of its own, is a stratum."""
    parts = []
    for metric in metrics:
        scale = ["" if pooled else " ".join(col) for col in frame["col"]]
        part = frame[["arm", "block", "row", "col"]].assign(
            value=frame[metric].astype(float), metric=metric,
            stratum=[f"{metric} {name}" for name in scale],
        )  # fmt: skip
        parts.append(part[part["value"].notna()])
    columns = ["arm", "block", "row", "col", "value", "metric", "stratum"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _order(frame: pd.DataFrame, lacking: pd.DataFrame, name: str) -> list[Key]:
    """Levels in the order in which runs were asked for; numbers in their own order."""
    keys = list(dict.fromkeys([*frame[name], *lacking[name]]))
    ranks = []
    for part in zip(*keys, strict=True):
        levels = list(dict.fromkeys(part))
        try:
            ranks.append({level: float(level) for level in levels})
        except ValueError:
            ranks.append({level: float(index) for index, level in enumerate(levels)})
    return sorted(
        keys, key=lambda key: [rank[level] for rank, level in zip(ranks, key, strict=True)]
    )


def _fill(
    table: AblationTable,
    values: pd.DataFrame,
    baseline: dict[Any, Any],
    tuned: dict[tuple[Key, Key], Tuned],
) -> None:
    """Makes the entries of every cell."""
    compared = {}
    for line in table.comparisons.to_dict("records"):
        compared[str(line["stratum"]).split(" ")[0], line["arm"], line["baseline"]] = line
    lacking = {
        cell: part["state"].value_counts().to_dict()
        for cell, part in table.lacking.groupby(["row", "col"], sort=False)
    } if len(table.lacking) else {}  # fmt: skip
    best = _best(values, table.twins)
    same = table.twins
    cells = dict(iter(table.runs.groupby(["row", "col"], sort=False)))
    none = table.runs.iloc[:0]
    for metric in table.metrics:
        for row in table.rows:
            for col in table.cols:
                arm = (row, col)
                mine = cells.get(arm, none)
                numbers = mine[metric].dropna().to_numpy(dtype=float)
                table.entries[row, col, metric] = Entry(
                    row=row, col=col, metric=metric,
                    mean=float(numbers.mean()) if len(numbers) else float("nan"),
                    half=half_width(numbers), runs=len(mine),
                    seeds=tuple(sorted(int(seed) for seed in mine["seed"])),
                    diverged=int((mine["status"] == "diverged").sum()),
                    lacking=lacking.get(arm, {}),
                    comparison=compared.get((metric, same.get(arm), same.get(baseline.get(arm)))),
                    best=arm in best.get(metric, set()), is_baseline=arm in baseline.values(),
                    tuned=tuned.get(arm),
                )  # fmt: skip


def _best(values: pd.DataFrame, twins: dict[Any, Any]) -> dict[str, set[Any]]:
    """metric -> cells that may be the best of their column, where better means something."""
    result: dict[str, set[Any]] = {metric: set() for metric in dict.fromkeys(values["metric"])}
    for _, part in values.groupby("stratum", sort=False):
        metric = part["metric"].iloc[0]
        better = describe(metric).better
        own = once(part, twins)
        fit = fit_blocks(own["arm"].tolist(), own["block"].tolist(), own["value"].to_numpy())
        if better == 0 or fit.df < 1:
            continue
        for _, column in part.groupby("col", sort=False):
            cells = list(dict.fromkeys(column["arm"]))
            among = list(dict.fromkeys(twins[arm] for arm in cells))
            if len(among) > 1:
                possible = possible_best(fit, among, better, LEVEL)
                result[metric] |= {arm for arm in cells if twins[arm] in possible}
    return result
