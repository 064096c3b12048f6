"""Figures of a table's arms: differences, reward against KL, over-optimisation, training."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ablate.analysis.canvas import (
    LETTERS,
    canvas_of,
    draw_legend,
    draw_line,
    height_of,
    names_down,
    panels_of,
)
from ablate.analysis.caption import baseline_of, name_of, parts_of, title
from ablate.analysis.cells import half_width
from ablate.analysis.figures import COLOURS, Figure, style
from ablate.analysis.looks import GREY, Looks, Parts, wrap
from ablate.analysis.table import AblationTable
from ablate.metrics import describe
from ablate.results.tables import CURVE, TRAIN, read_tables

#: step metrics worth a panel: column -> what it is, in which scale
STEPS = {
    "accuracy": "label pairs ordered rightly",
    "log_ratio": "mean log π/π_ref, nats",
    "grad_norm": "norm of the gradient",
}


def arms_of(table: AblationTable) -> list[str]:
    """Names of the cells that have runs, in reading order."""
    return [name_of(table, *cell) for cell in _cells(table)]


def _cells(table: AblationTable) -> list[Any]:
    there = set(table.runs["arm"])
    return [(row, col) for row in table.rows for col in table.cols if (row, col) in there]


def named(table: AblationTable) -> pd.DataFrame:
    """The runs with `name`, their cell's."""
    return table.runs.assign(name=[name_of(table, *arm) for arm in table.runs["arm"]])


def looks_of(table: AblationTable) -> Looks:
    """How the cells that have runs look, in every figure of the table."""
    return Looks([parts_of(table, *cell) for cell in _cells(table)])


def _shown(table: AblationTable, names: Iterable[str]) -> dict[Parts, str]:
    """Those of the table's cells with these names: parts -> name."""
    wanted = set(names)
    every = {parts_of(table, *cell): name_of(table, *cell) for cell in _cells(table)}
    return {parts: name for parts, name in every.items() if name in wanted}


def differences(table: AblationTable, metric: str) -> Figure | None:
    """Differences to the baseline with simultaneous 95 % intervals; the margin as a grey band.

    None where nothing was compared.
    """
    found = [
        {**e.comparison, "name": name_of(table, e.row, e.col)}
        for e in table.entries.values()
        if e.metric == metric and e.comparison is not None
    ]
    data = pd.DataFrame(found)
    if data.empty or data["low"].isna().all():
        return None
    data = data.dropna(subset=["difference"])
    scale = describe(metric).scale
    with style():
        cells = [parts_of(table, *arm) for arm in data["arm"]]
        canvas = canvas_of(height_of(cells))
        axes = canvas.subplots()
        margin = table.question.margin
        if margin is not None and metric == table.metrics[0]:
            axes.axvspan(-scale * margin, scale * margin, color="#e9e9e9", lw=0, zorder=0)
        axes.axvline(0, color=GREY, linewidth=0.9)
        for place, row in enumerate(data.itertuples()):
            colour, marker = _of_verdict(row)
            axes.plot([scale * row.low, scale * row.high], [-place] * 2, color=colour, lw=1.6)
            axes.plot(scale * row.difference, -place, marker, color=colour, ms=6)
        names_down(canvas, axes, cells)
        told = f"{title(metric)}: difference to {baseline_of(table)}"
        canvas.supxlabel(wrap(told, LETTERS), fontsize=9)
    columns = ["name", "difference", "low", "high", "p_holm", "significant"]
    return Figure(canvas, data[[c for c in columns if c in data]])


def _of_verdict(row: Any) -> tuple[str, str]:
    if row.significant:
        return (COLOURS[0], "^") if row.difference > 0 else (COLOURS[1], "v")
    if getattr(row, "equivalent", None) is True:
        return COLOURS[2], "s"
    return GREY, "o"


def frontier(table: AblationTable, split: str) -> Figure | None:
    """Judge reward against KL to the SFT policy: small marks runs, large ones means of cells.

    Bars are 95 % intervals of reward over seeds; the black diamond is the SFT policy. None without
    KL.
    """
    wanted = [f"{name}/{split}" for name in ("kl", "reward", "reward_sft")]
    runs = named(table)
    if any(name not in runs for name in wanted):
        return None
    runs = runs.dropna(subset=wanted)
    looks = looks_of(table)
    shown = _shown(table, runs["name"])
    legend = looks.legend(list(shown))
    means = []
    with style():
        canvas = canvas_of(3.6 + legend.height)
        axes = canvas.subplots()
        start = float(runs[wanted[2]].mean())
        for cell, name in shown.items():
            colour, marker = looks.of[cell].colour, looks.of[cell].marker
            mine = runs[runs["name"] == name]
            kl, reward = (mine[column].to_numpy(dtype=float) for column in wanted[:2])
            axes.plot(kl, reward, marker, color=colour, alpha=0.35, ms=3.5, mew=0)
            halves = half_width(kl), half_width(reward)
            bars = [np.nan_to_num(half) for half in halves]
            axes.errorbar(
                kl.mean(), reward.mean(), yerr=bars[1], fmt=marker, color=colour, ms=7,
                mec="white", mew=0.8, elinewidth=1.0, zorder=3,
            )  # fmt: skip
            means.append({"name": name, "seeds": len(mine), "kl": kl.mean(), "kl_half": halves[0],
                          "reward": reward.mean(), "reward_half": halves[1]})  # fmt: skip
        sft = axes.plot(0, start, "D", color="black", ms=6, label="SFT", clip_on=False, zorder=4)
        _root_scale(axes, float(runs[wanted[0]].max()), 1)
        axes.set_xlabel("KL to SFT, nats (square-root scale)")
        axes.set_ylabel(title(wanted[1]))
        draw_legend(canvas, legend, lines=False, also=sft)
    means.insert(0, {"name": "SFT", "seeds": runs["seed"].nunique(), "kl": 0.0, "reward": start})
    return Figure(canvas, pd.DataFrame(means))


def _root(values: Any) -> Any:
    return np.sqrt(np.maximum(values, 0))


def _root_scale(axes: Any, farthest: float, abreast: int) -> None:
    """Makes an x axis from 0 to `farthest` nats, of one of several panels, one of square roots."""
    axes.set_xscale("function", functions=(_root, np.square))
    axes.set_xlim(0, farthest * 1.08 + 1e-6)
    ticks = _round_ticks(farthest, 0.08 * abreast)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _round_ticks(farthest: float, apart: float) -> list[float]:
    """Shares of a round number that stand apart on a square-root scale, by a share of its length.

    Larger ones have the right of way.
    """
    unit = 10.0 ** np.floor(np.log10(max(farthest, 1e-3)))
    known = [unit * step for step in (0, 0.05, 0.2, 0.5, 1, 2, 3, 5, 7)]
    known = [float(f"{tick:.3g}") for tick in known if tick <= 1.05 * farthest]
    ticks = [0.0]
    for tick in sorted(known, reverse=True):
        nearest = min(abs(np.sqrt(tick) - np.sqrt(other)) for other in ticks)
        if nearest >= apart * np.sqrt(farthest):
            ticks.append(tick)
    return sorted(ticks)


def overoptimisation(table: AblationTable) -> Figure | None:
    """What judge and training reward say along training, against KL to the SFT policy.

    Thin lines are runs, thick ones the means of a cell's runs at equal steps. None where no run
    recorded a curve.
    """
    runs = named(table)
    points = read_tables(runs, CURVE)
    if points.empty:
        return None
    points = points.merge(runs[["id", "name", "seed"]], on="id")
    points["point"] = points.groupby("id").cumcount()
    panels = {"judge_reward": "judge reward, valid"}
    if "training_reward" in points and points["training_reward"].notna().any():
        panels["training_reward"] = "training reward, valid"
    numbers = ["kl", *panels]
    means = points.groupby(["name", "point"], sort=False)[numbers].mean().reset_index()
    looks = looks_of(table)
    shown = _shown(table, points["name"])
    legend, across = looks.legend(list(shown)), looks.panels(list(shown))
    farthest = float(points["kl"].max())
    with style():
        canvas = canvas_of(0.6 + 2.2 * len(panels) + legend.height)
        below = "KL to SFT, nats (square-root scale)"
        grid = panels_of(canvas, list(panels.values()), across, below)
        for row, column in zip(grid, panels, strict=True):
            for axes, (_, cells) in zip(row, across, strict=True):
                for place, cell in enumerate(cells):
                    look = looks.of[cell]
                    for _, run in points[points["name"] == shown[cell]].groupby("id", sort=False):
                        axes.plot(run["kl"], run[column], color=look.colour, lw=0.7, alpha=0.4)
                    mine = means[means["name"] == shown[cell]]
                    draw_line(axes, mine["kl"], mine[column], look, (place, len(cells)), 1.8)
                _root_scale(axes, farthest, len(across))
        draw_legend(canvas, legend, lines=True)
    columns = ["name", "seed", "step", *numbers]
    return Figure(canvas, points[[*(c for c in ["round"] if c in points), *columns]])


def learning(table: AblationTable) -> Figure | None:
    """Step metrics of training: lines are means over a cell's runs. None where there are none."""
    runs = named(table)
    steps = read_tables(runs, TRAIN)
    panels = {c: told for c, told in STEPS.items() if c in steps and steps[c].notna().any()}
    if not panels:
        return None
    steps = steps.merge(runs[["id", "name"]], on="id")
    # rounds follow each other: count steps through
    steps["step"] = steps.groupby("id").cumcount() + 1
    means = steps.groupby(["name", "step"], sort=False)[list(panels)].mean().reset_index()
    looks = looks_of(table)
    shown = _shown(table, means["name"])
    legend, across = looks.legend(list(shown)), looks.panels(list(shown))
    with style():
        canvas = canvas_of(0.6 + 1.8 * len(panels) + legend.height)
        grid = panels_of(canvas, list(panels.values()), across, "optimizer step")
        for row, column in zip(grid, panels, strict=True):
            for axes, (_, cells) in zip(row, across, strict=True):
                for place, cell in enumerate(cells):
                    look, mine = looks.of[cell], means[means["name"] == shown[cell]]
                    smooth = _smooth(mine[column].to_numpy(dtype=float))
                    draw_line(axes, mine["step"], smooth, look, (place, len(cells)), 1.3)
            if column == "grad_norm":
                row[0].set_yscale("log")
        draw_legend(canvas, legend, lines=True)
    return Figure(canvas, means)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over a twentieth of the steps, short at the ends."""
    half = len(values) // 40
    if half == 0:
        return values
    return np.array([np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def trials(tried: pd.DataFrame, metric: str, names: Iterable[str]) -> Figure | None:
    """Every trial of tuned cells: its mean on valid; the chosen one is filled.

    Args:
        tried: a row per trial with name, trial, value and chosen.
    """
    if tried.empty:
        return None
    order = [name for name in names if name in set(tried["name"])]
    scale = describe(metric).scale
    with style():
        cells = [tuple(name.split(", ")) for name in order]
        canvas = canvas_of(height_of(cells))
        axes = canvas.subplots()
        for place, name in enumerate(order):
            mine = tried[tried["name"] == name]
            values = scale * mine["value"].to_numpy(dtype=float)
            axes.plot([values.min(), values.max()], [-place] * 2, color="#bbbbbb", lw=1)
            axes.plot(values, [-place] * len(values), "o", mfc="white", mec=COLOURS[0], ms=4.5)
            best = scale * mine.loc[mine["chosen"], "value"].to_numpy(dtype=float)
            axes.plot(best, [-place] * len(best), "o", color=COLOURS[0], ms=6)
        names_down(canvas, axes, cells)
        axes.set_xlabel(title(metric))
    return Figure(canvas, tried)
