"""Figures of a table's arms: differences, reward against KL, over-optimisation, training."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablate.analysis.caption import name_of, title
from ablate.analysis.cells import half_width
from ablate.analysis.figures import COLOURS, MARKERS, Figure, style
from ablate.analysis.table import AblationTable
from ablate.metrics import describe
from ablate.results.tables import CURVE, TRAIN, read_tables

#: inches; narrow enough that the text is readable on a telephone
WIDTH = 5.2
GREY = "#555555"
#: step metrics worth a panel: column -> what it is, in which scale
STEPS = {
    "accuracy": "label pairs ordered rightly",
    "log_ratio": "mean log π/π_ref, nats",
    "grad_norm": "norm of the gradient",
}


def arms_of(table: AblationTable) -> list[str]:
    """Names of the cells that have runs, in reading order."""
    cells = [(row, col) for row in table.rows for col in table.cols]
    there = set(table.runs["arm"])
    return [name_of(table, *cell) for cell in cells if cell in there]


def named(table: AblationTable) -> pd.DataFrame:
    """The runs with `name`, their cell's."""
    return table.runs.assign(name=[name_of(table, *arm) for arm in table.runs["arm"]])


def look(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each arm; no two arms share both."""
    count = len(COLOURS)
    return {
        arm: (COLOURS[place % count], MARKERS[(place + place // count) % len(MARKERS)])
        for place, arm in enumerate(arms)
    }


def _canvas(height: float) -> Any:
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(WIDTH, height), layout="constrained")


def _legend(canvas: Any, axes: Any, count: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=0)
    canvas.legend(
        handles, labels, loc="outside lower center", ncols=2 if longest < 34 and count > 1 else 1,
        frameon=False, handletextpad=0.4, columnspacing=1.2, fontsize=8,
    )  # fmt: skip


def differences(table: AblationTable, metric: str) -> Figure | None:
    """Differences to the baseline with simultaneous 95 % intervals; the margin as a grey band.

    None where nothing was compared.
    """
    found = [
        (name_of(table, e.row, e.col), e.comparison)
        for e in table.entries.values()
        if e.metric == metric and e.comparison is not None
    ]
    data = pd.DataFrame([{**told, "name": name} for name, told in found])
    if data.empty or data["low"].isna().all():
        return None
    data = data.dropna(subset=["difference"])
    scale = describe(metric).scale
    with style():
        canvas = _canvas(0.9 + 0.27 * len(data))
        axes = canvas.subplots()
        margin = table.question.margin
        if margin is not None and metric == table.metrics[0]:
            axes.axvspan(-scale * margin, scale * margin, color="#e9e9e9", lw=0, zorder=0)
        axes.axvline(0, color=GREY, linewidth=0.9)
        for place, row in enumerate(data.itertuples()):
            colour, marker = _of_verdict(row)
            axes.plot([scale * row.low, scale * row.high], [-place] * 2, color=colour, lw=1.6)
            axes.plot(scale * row.difference, -place, marker, color=colour, ms=6)
        axes.set_yticks([-place for place in range(len(data))], data["name"])
        axes.set_ylim(-len(data) + 0.4, 0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{title(metric)}: difference to {table.question.baseline}")
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
    looks = look(arms_of(table))
    means = []
    with style():
        canvas = _canvas(3.4 + 0.16 * ((len(looks) + 1) // 2))
        axes = canvas.subplots()
        start = float(runs[wanted[2]].mean())
        for name, (colour, marker) in looks.items():
            mine = runs[runs["name"] == name]
            if mine.empty:
                continue
            kl, reward = (mine[column].to_numpy(dtype=float) for column in wanted[:2])
            axes.plot(kl, reward, marker, color=colour, alpha=0.35, ms=3.5, mew=0)
            halves = half_width(kl), half_width(reward)
            bars = [np.nan_to_num(half) for half in halves]
            axes.errorbar(
                kl.mean(), reward.mean(), yerr=bars[1], fmt=marker, color=colour, ms=7,
                mec="white", mew=0.8, elinewidth=1.0, label=name, zorder=3,
            )  # fmt: skip
            means.append({"name": name, "seeds": len(mine), "kl": kl.mean(), "kl_half": halves[0],
                          "reward": reward.mean(), "reward_half": halves[1]})  # fmt: skip
        axes.plot(0, start, "D", color="black", ms=6, label="SFT", clip_on=False, zorder=4)
        axes.set_xscale("function", functions=(_root, np.square))
        farthest = float(runs[wanted[0]].max())
        axes.set_xlim(0, farthest * 1.08 + 1e-6)
        axes.set_xticks(_round_ticks(farthest))
        axes.set_xlabel("KL to SFT, nats (square-root scale)")
        axes.set_ylabel(title(wanted[1]))
        _legend(canvas, axes, len(looks))
    means.insert(0, {"name": "SFT", "seeds": len(runs), "kl": 0.0, "reward": start})
    return Figure(canvas, pd.DataFrame(means))


def _root(values: Any) -> Any:
    return np.sqrt(np.maximum(values, 0))


def _round_ticks(farthest: float) -> list[float]:
    """Ticks that stand apart on a square-root scale: shares of a round number."""
    unit = 10.0 ** np.floor(np.log10(max(farthest, 1e-3)))
    steps = [0, 0.05, 0.2, 0.5, 1, 2, 3, 5, 7]
    ticks = [unit * step for step in steps if unit * step <= 1.05 * farthest]
    return ticks if len(ticks) > 3 else [0, farthest / 4, farthest]


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
    names = [name for name in arms_of(table) if name in set(points["name"])]
    looks = {name: look(arms_of(table))[name] for name in names}
    numbers = ["kl", *panels]
    means = points.groupby(["name", "point"], sort=False)[numbers].mean().reset_index()
    with style():
        canvas = _canvas(0.5 + 2.2 * len(panels) + 0.16 * ((len(looks) + 1) // 2))
        grid = canvas.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (column, told) in zip(grid, panels.items(), strict=True):
            for name, (colour, marker) in looks.items():
                for _, run in points[points["name"] == name].groupby("id", sort=False):
                    axes.plot(run["kl"], run[column], color=colour, lw=0.7, alpha=0.4)
                mine = means[means["name"] == name]
                axes.plot(
                    mine["kl"], mine[column], color=colour, marker=marker, ms=4.5, lw=1.8,
                    mec="white", mew=0.5, label=name,
                )  # fmt: skip
            axes.set_ylabel(told)
            axes.set_xscale("function", functions=(_root, np.square))
            farthest = float(points["kl"].max())
            axes.set_xlim(0, farthest * 1.05 + 1e-6)
            axes.set_xticks(_round_ticks(farthest))
        grid[-1].set_xlabel("KL to SFT, nats (square-root scale)")
        _legend(canvas, grid[0], len(looks))
    shown = ["name", "seed", "step", *numbers]
    return Figure(canvas, points[[*(c for c in ["round"] if c in points), *shown]])


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
    names = [name for name in arms_of(table) if name in set(means["name"])]
    looks = {name: look(arms_of(table))[name] for name in names}
    with style():
        canvas = _canvas(0.5 + 1.7 * len(panels) + 0.16 * ((len(looks) + 1) // 2))
        grid = canvas.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (column, told) in zip(grid, panels.items(), strict=True):
            for name, (colour, marker) in looks.items():
                mine = means[means["name"] == name]
                every = max(1, len(mine) // 6)
                axes.plot(
                    mine["step"], _smooth(mine[column].to_numpy(dtype=float)), color=colour,
                    lw=1.3, marker=marker, markevery=every, ms=4, mec="white", mew=0.4, label=name,
                )  # fmt: skip
            axes.set_ylabel(told, fontsize=8)
            if column == "grad_norm":
                axes.set_yscale("log")
        grid[-1].set_xlabel("optimizer step")
        _legend(canvas, grid[0], len(looks))
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
        canvas = _canvas(0.9 + 0.27 * len(order))
        axes = canvas.subplots()
        for place, name in enumerate(order):
            mine = tried[tried["name"] == name]
            values = scale * mine["value"].to_numpy(dtype=float)
            axes.plot([values.min(), values.max()], [-place] * 2, color="#bbbbbb", lw=1)
            axes.plot(values, [-place] * len(values), "o", mfc="white", mec=COLOURS[0], ms=4.5)
            best = scale * mine.loc[mine["chosen"], "value"].to_numpy(dtype=float)
            axes.plot(best, [-place] * len(best), "o", color=COLOURS[0], ms=6)
        axes.set_yticks([-place for place in range(len(order))], order)
        axes.set_ylim(-len(order) + 0.4, 0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(title(metric))
    return Figure(canvas, tried)
