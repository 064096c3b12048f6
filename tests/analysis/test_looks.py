"""Figures of arms: no two look alike, nothing overlaps, and the data behind them is the runs'."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablate.analysis import AblationTable, Question, build, plots
from ablate.analysis.canvas import draw_line
from ablate.analysis.caption import name_of, parts_of
from ablate.analysis.looks import CROWDED, Looks, Parts, shared
from ablate.results import load_curve, load_study, load_train
from madestore import answers, put

OBJECTIVES = ("dpo", "simpo", "kto", "rpo_bwd", "rpo_sqloo")
#: thirteen arms, as of a study that is no whole grid
CELLS: list[Parts] = [
    *((name, "K=2", "offline", "gold", "checkpoint=valid") for name in OBJECTIVES),
    *((name, "K=4", *rest) for name in ("rpo_bwd", "rpo_sqloo") for rest in (
        ("offline", "gold", "checkpoint=valid"), ("online", "gold", "checkpoint=valid"),
        ("online", "explicit", "checkpoint=valid"), ("online", "explicit", "checkpoint=last"))),
]  # fmt: skip


def grid(*counts: int) -> list[Parts]:
    return [
        tuple(f"{factor}={level}" for factor, level in enumerate(levels))
        for levels in itertools.product(*map(range, counts))
    ]


@pytest.mark.parametrize(
    "cells", [CELLS, grid(3), grid(7), grid(24), grid(40), grid(12, 2), grid(4, 3, 2), [()]],
    ids=len,
)  # fmt: skip
def test_no_two_arms_look_alike(cells: list[Parts]) -> None:
    looks = Looks(cells)
    marks = {(look.colour, look.marker) for look in looks.of.values()}
    assert len(marks) == len(cells), "told apart without lines, where only marks are drawn"
    if looks.hue is None and len(cells) <= 24:
        lines = {(look.colour, look.line) for look in looks.of.values()}
        assert len(lines) == len(cells), "and without marks, which are far between on a line"


def test_of_many_arms_colour_stands_for_one_factor() -> None:
    looks = Looks(CELLS)
    assert looks.hue == 0
    for one, other in itertools.combinations(CELLS, 2):
        same = looks.of[one].colour == looks.of[other].colour
        assert same == (one[0] == other[0])
        rest = looks.of[one].marker == looks.of[other].marker
        assert rest == (one[1:] == other[1:])


def test_a_legend_says_once_what_its_arms_share() -> None:
    looks = Looks(CELLS)
    online = [cell for cell in CELLS if "online" in cell]
    legend = looks.legend(online)
    assert legend.common == "K=4, online"
    colours, marks = ([name for name, _ in column] for column in legend.columns)
    assert colours == ["colour", "rpo_bwd", "rpo_sqloo"]
    assert marks == ["mark", "gold, checkpoint=valid", "explicit, checkpoint=valid",
                     "explicit, checkpoint=last"]  # fmt: skip
    # every arm can be told from the two
    for cell in online:
        (colour,) = [look for name, look in legend.columns[0] if name == cell[0]]
        (mark,) = [look for name, look in legend.columns[1] if name == ", ".join(cell[3:])]
        assert colour is not None
        assert mark is not None
        assert (colour.colour, mark.marker, mark.line) == (
            looks.of[cell].colour, looks.of[cell].marker, looks.of[cell].line
        )  # fmt: skip
    few = Looks(grid(3, 1)).legend(grid(3, 1))
    assert few.common == "1=0"
    assert [name for column in few.columns for name, _ in column] == ["0=0", "0=1", "0=2"]
    assert shared([("dpo", "K=2")]) == ("", ["dpo, K=2"]), "one arm keeps its name"


def test_a_crowd_is_parted_into_panels() -> None:
    looks = Looks(CELLS)
    panels = looks.panels(CELLS)
    assert [title for title, _ in panels] == ["offline", "online"]
    assert [cell for _, cells in panels for cell in cells] == sorted(
        CELLS, key=lambda cell: cell[2]
    )
    assert max(len(cells) for _, cells in panels) <= CROWDED
    assert looks.panels(CELLS[:7]) == [("", CELLS[:7])]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> AblationTable:
    """The thirteen arms with two seeds each; the online ones recorded a curve."""
    root = tmp_path_factory.mktemp("looks") / "store"
    for number, (objective, k, collection, reward, checkpoint) in enumerate(CELLS):
        for seed in (0, 1):
            rng = np.random.default_rng([number, seed])
            step = np.arange(0, 50, 5)
            curve = pd.DataFrame(
                {"step": step, "judge_reward": 5 + rng.random(10), "length": 8.0,
                 "training_reward": step / 20 + rng.random(10), "kl": step / 3 + rng.random(10),
                 "truncated": 0.0}
            )  # fmt: skip
            count = 90 if collection == "online" else 30
            steps = pd.DataFrame(
                {"step": np.arange(1, count + 1), "accuracy": rng.random(count),
                 "log_ratio": rng.normal(0, 1, count), "grad_norm": rng.random(count) + 0.1}
            )  # fmt: skip
            put(
                root, answers(5 + number / 9, 7 * number + seed), objective=objective, seed=seed,
                num_responses=int(k[2:]), collection=collection, reward=reward, steps=steps,
                training__select_checkpoint=checkpoint.partition("=")[2],
                curve=curve if collection == "online" else None,
            )  # fmt: skip
    frame = load_study(root).frame
    rows = ("objective", "num_responses", "collection", "reward", "training.select_checkpoint")
    question = Question(rows=rows, baseline="dpo 2 offline gold valid", margin=0.2)
    return build(frame, frame.iloc[:0], question)


def figures(table: AblationTable) -> dict[str, Any]:
    return {
        "differences": plots.differences(table, "reward/test"),
        "frontier": plots.frontier(table, "test"),
        "overoptimisation": plots.overoptimisation(table),
        "training": plots.learning(table),
        "tuning": plots.trials(
            pd.DataFrame(
                [{"name": name, "trial": t, "value": 5.0 + t, "chosen": t == 1}
                 for name in plots.arms_of(table) for t in (0, 1)]
            ),
            "reward/valid", plots.arms_of(table),
        ),
    }  # fmt: skip


def overlap(one: Any, other: Any) -> bool:
    return bool(
        min(one.x1, other.x1) > max(one.x0, other.x0) + 0.5
        and min(one.y1, other.y1) > max(one.y0, other.y0) + 0.5
    )


def unseen(axes: Any) -> set[Any]:
    """Labels of ticks beyond the ends of an axis, which are not drawn."""
    return {
        label
        for axis in (axes.xaxis, axes.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        for label in (tick.label1, tick.label2)
    }


def test_no_words_of_a_figure_overlap_or_leave_it(table: AblationTable) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    from ablate.analysis.figures import style

    for name, made in figures(table).items():
        assert made is not None, name
        with style():
            drawn = FigureCanvasAgg(made.figure)
            drawn.draw()
            renderer = drawn.get_renderer()
            hidden = set().union(*map(unseen, made.figure.axes))
            words = [
                (text.get_text(), text.get_window_extent(renderer))
                for text in made.figure.findobj(Text)
                if text.get_visible() and text.get_text().strip() and text not in hidden
            ]
            inside = made.figure.bbox
            spots = [axes.get_window_extent() for axes in made.figure.axes]
            legends = [one.get_window_extent(renderer) for one in made.figure.legends]
        assert len(words) > 10
        for (one, box), (other, also) in itertools.combinations(words, 2):
            assert not overlap(box, also), f"{name}: {one!r} lies on {other!r}"
        for told, box in words:
            assert inside.x0 - 1 <= box.x0, f"{name}: {told!r} is cut"
            assert box.x1 <= inside.x1 + 1, f"{name}: {told!r} is cut"
        for axes, legend in itertools.product(spots, legends):
            assert not overlap(axes, legend), name


def test_a_figure_of_many_arms_holds_the_means_of_their_runs(table: AblationTable) -> None:
    made = figures(table)
    names = {name_of(table, row, ()): row for row in table.rows}
    assert set(made["training"].data["name"]) == set(names)
    root = Path(table.runs["path"].iloc[0]).parents[2]
    steps = load_train(root).merge(table.runs[["id", "row"]], on="id")
    for name, part in made["training"].data.groupby("name"):
        mine = steps[steps["row"] == names[name]]
        wanted = mine.groupby("step")["accuracy"].mean()
        assert part["accuracy"].tolist() == pytest.approx(wanted.tolist())
    online = {name for name, row in names.items() if "online" in row}
    assert set(made["overoptimisation"].data["name"]) == online
    curves = load_curve(root)
    assert len(made["overoptimisation"].data) == len(curves)
    assert sorted(made["overoptimisation"].data["kl"]) == sorted(curves["kl"])
    frontier = made["frontier"].data.set_index("name")
    for name, row in names.items():
        runs = table.runs[table.runs["row"] == row]
        assert frontier.loc[name, "reward"] == pytest.approx(runs["reward/test"].mean())


def test_lines_are_drawn_where_the_data_are_and_in_the_look_of_their_arm(
    table: AblationTable,
) -> None:
    made = plots.learning(table)
    assert made is not None
    looks = plots.looks_of(table)
    panels = looks.panels([parts_of(table, row, ()) for row in table.rows])
    top = made.figure.axes[: len(panels)]
    assert [axes.get_title() for axes in top] == ["offline", "online"]
    for axes, (_, cells) in zip(top, panels, strict=True):
        # a line and its marks for each arm
        assert len(axes.lines) == 2 * len(cells)
        for line, marks, cell in zip(axes.lines[::2], axes.lines[1::2], cells, strict=True):
            mine = made.data[made.data["name"] == ", ".join(cell)]
            assert line.get_color() == looks.of[cell].colour
            assert marks.get_marker() == looks.of[cell].marker
            assert line.get_xdata().tolist() == mine["step"].tolist()
            # a running mean over less than forty steps is the value itself
            if len(mine) < 40:
                assert line.get_ydata().tolist() == pytest.approx(mine["accuracy"].tolist())


@pytest.mark.parametrize(("length", "count"), [(10, 6), (32, 7), (96, 6), (4, 3), (400, 24)])
def test_marks_of_curves_that_are_the_same_are_beside_each_other(length: int, count: int) -> None:
    from matplotlib.figure import Figure

    look = Looks([("dpo",)]).of["dpo",]
    axes = Figure().subplots()
    for place in range(count):
        draw_line(axes, np.arange(length), np.zeros(length), look, (place, count), 1.0)
    starts = [line.get_markevery() for line in axes.lines[1::2]]
    assert len(axes.lines) == 2 * count
    every = starts[0][1]
    assert all(start < every for start, _ in starts)
    if every > 1:
        for (one, _), (other, _) in itertools.pairwise(starts):
            assert one != other


@pytest.mark.parametrize("farthest", [0.02, 0.7, 1.0, 3.3, 9.9, 21.0, 400.0])
def test_ticks_of_a_root_scale_stand_apart(farthest: float) -> None:
    for apart in (0.08, 0.16, 0.24):
        ticks = plots._round_ticks(farthest, apart)
        assert ticks[0] == 0
        assert len(ticks) >= 3
        assert farthest / 4 <= ticks[-1] <= 1.05 * farthest
        assert min(np.diff(np.sqrt(ticks))) >= apart * np.sqrt(farthest)
