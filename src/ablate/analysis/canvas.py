"""What figures of arms are drawn with: panels, lines, names beside rows, the legend below."""

from collections.abc import Sequence
from typing import Any

from ablate.analysis.looks import GREY, WIDEST, Legend, Look, Parts, shared, wrap

#: inches; narrow enough that the text is readable on a telephone
WIDTH = 5.2
#: letters of an arm's name, of the heading of a panel, and of a line as wide as the figure
NAME, HEADING, LETTERS = 30, 22, 60


def canvas_of(height: float) -> Any:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(WIDTH, height), layout="constrained")


def panels_of(
    canvas: Any, down: Sequence[str], across: Sequence[tuple[str, list[Parts]]], below: str
) -> list[list[Any]]:
    """Axes per row and column: rows share their y axis and its heading, columns their x axis.

    Args:
        below: what the x axes are.
    """
    grid = canvas.subplots(len(down), len(across), sharex="col", sharey="row", squeeze=False)
    for row, told in zip(grid, down, strict=True):
        row[0].set_ylabel(wrap(told, HEADING), fontsize=8)
    if len(across) > 1:
        for axes, (heading, _) in zip(grid[0], across, strict=True):
            axes.set_title(heading, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel(wrap(below, (LETTERS - 8) // len(across)))
    canvas.align_ylabels()
    return [list(row) for row in grid]


def draw_line(axes: Any, x: Any, y: Any, look: Look, place: tuple[int, int], width: float) -> None:
    """A line of an arm with its marks, above all lines and not at the same points for all arms.

    Args:
        place: the number of the arm in its panel, and how many there are: curves may be the same.
    """
    every = max(1, len(x) // 5)
    start = place[0] * max(1, every // place[1]) % every
    axes.plot(x, y, color=look.colour, ls=look.line, lw=width)
    axes.plot(
        x, y, color=look.colour, ls="none", marker=look.marker, ms=5, mec="white", mew=0.5,
        markevery=(start, every), zorder=3,
    )  # fmt: skip


def names_down(canvas: Any, axes: Any, cells: Sequence[Parts]) -> None:
    """Names beside the rows of a figure, wrapped; what all share is said above."""
    common, names = shared(cells)
    draw_common(canvas, common)
    told = [wrap(name, NAME) for name in names]
    axes.set_yticks([-place for place in range(len(told))], told, fontsize=8)
    axes.set_ylim(-len(told) + 0.4, 0.6)
    axes.grid(axis="y", visible=False)


def height_of(cells: Sequence[Parts]) -> float:
    """Inches of a figure with a row per cell."""
    _, names = shared(cells)
    lines = max((wrap(name, NAME).count("\n") + 1 for name in names), default=1)
    return 1.1 + (0.14 + 0.13 * lines) * len(cells)


def draw_legend(canvas: Any, legend: Legend, *, lines: bool, also: Sequence[Any] = ()) -> None:
    """Puts a legend below a figure, and what all arms share above it.

    Args:
        lines: whether arms are lines, or marks alone.
        also: handles of what is no arm.
    """
    draw_common(canvas, legend.common)
    columns = [[_handle(name, look, lines) for name, look in each] for each in legend.columns]
    min(columns, key=len).extend(also)
    # columns of equal length are filled one after the other
    longest = max(map(len, columns))
    handles = [
        handle
        for column in columns
        for handle in [*column, *(_handle(" ", None, lines) for _ in range(longest - len(column)))]
    ]
    canvas.legend(
        handles=handles, loc="outside lower center", ncols=len(columns), frameon=False,
        handlelength=2.6 if lines else 1.4, handletextpad=0.5, columnspacing=1.2, fontsize=8,
    )  # fmt: skip


def _handle(name: str, look: Look | None, lines: bool) -> Any:
    from matplotlib.lines import Line2D

    if look is None:
        return Line2D([], [], linestyle="none", label=name)
    bar = not look.marker
    return Line2D(
        [], [], color=look.colour, marker=look.marker, label=name, mec="white", mew=0.4,
        linestyle=look.line if lines or bar else "none", lw=3.5 if bar else 1.5,
        ms=5 if lines else 6.5,
    )  # fmt: skip


def draw_common(canvas: Any, common: str) -> None:
    """Says above a figure what all of its arms share, if anything."""
    if common:
        canvas.suptitle(
            wrap(f"all arms: {common}", WIDEST), x=0.01, ha="left", fontsize=8, color=GREY
        )
