"""How arms are told apart in a figure: colours, marks and lines, panels, and the legend.

A few arms have a colour and a mark each. Of many, colour stands for one factor and mark and line
for the others, so that arms which share a level share a look; the legend then tells each once.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ablate.analysis.figures import COLOURS, MARKERS

#: the parts of a cell's name, as in `caption.parts_of`
Parts = tuple[str, ...]
#: more arms than that share no panel, where a factor can part them
CROWDED = 7
#: panels side by side
ABREAST = 3
#: lines, so that those of one colour that lie on each other both show
LINES: tuple[Any, ...] = (
    "-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (9, 1.5)),
)  # fmt: skip
GREY = "#555555"
#: letters of a legend's entry before it wraps, alone and in the first of two columns
WIDEST, HALF = 64, 28


@dataclass(frozen=True)
class Look:
    """A colour, a mark and a kind of line, as matplotlib takes them."""

    colour: str
    marker: str
    line: Any


@dataclass(frozen=True)
class Legend:
    """What all arms share, and columns of entries; an entry without a look is a heading."""

    common: str
    columns: list[list[tuple[str, Look | None]]]

    @property
    def height(self) -> float:
        """Inches that it needs, with the line on what is common."""
        rows = max(sum(name.count("\n") + 1 for name, _ in entries) for entries in self.columns)
        return 0.18 * rows + (0.2 if self.common else 0.0)


class Looks:
    """The looks of all arms of a table; a figure that shows some of them uses the same."""

    def __init__(self, cells: Sequence[Parts]) -> None:
        """cells: the parts of every arm's name, in reading order."""
        cells = list(dict.fromkeys(cells))
        #: the factor that colour stands for, None where every arm has a colour of its own
        self.hue = _hue(cells)
        self.of: dict[Parts, Look] = {}
        if self.hue is None:
            for place, cell in enumerate(cells):
                self.of[cell] = Look(
                    COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)],
                    LINES[place // len(COLOURS) % len(LINES)],
                )  # fmt: skip
            return
        levels = list(dict.fromkeys(cell[self.hue] for cell in cells))
        rests = list(dict.fromkeys(self._rest(cell) for cell in cells))
        for cell in cells:
            place = rests.index(self._rest(cell))
            self.of[cell] = Look(
                COLOURS[levels.index(cell[self.hue])], MARKERS[place], LINES[place % len(LINES)]
            )

    def _rest(self, cell: Parts) -> Parts:
        return tuple(part for place, part in enumerate(cell) if place != self.hue)

    def panels(self, shown: Sequence[Parts]) -> list[tuple[str, list[Parts]]]:
        """The arms of each panel side by side, with its title; one panel where it is not crowded.

        They are parted by the factor that leaves the fewest arms in a panel, and not by colour's.
        """
        best = [("", list(shown))]
        if len(shown) <= CROWDED:
            return best
        for place in range(len(shown[0])):
            parts: dict[str, list[Parts]] = {}
            for cell in shown:
                parts.setdefault(cell[place], []).append(cell)
            fullest = max(map(len, parts.values()))
            if place != self.hue and len(parts) <= ABREAST and fullest < max(
                len(cells) for _, cells in best
            ):  # fmt: skip
                best = list(parts.items())
        return best

    def legend(self, shown: Sequence[Parts]) -> Legend:
        """The legend of some arms: what they share is said once, what differs in the entries."""
        common, short = shared(shown)
        names = dict(zip(shown, short, strict=True))
        hue = self.hue
        if hue is None or len({cell[hue] for cell in shown}) < 2:
            own: list[tuple[str, Look | None]] = [
                (wrap(names[cell], WIDEST), self.of[cell]) for cell in shown
            ]
            half = (len(own) + 1) // 2
            narrow = len(own) > 1 and max(len(name) for name, _ in own) <= HALF + 4
            return Legend(common, [own[:half], own[half:]] if narrow else [own])
        varied = [p for p in range(len(shown[0])) if len({cell[p] for cell in shown}) > 1]
        colours = {cell[hue]: Look(self.of[cell].colour, "", "-") for cell in shown}
        columns = [
            [("colour", None), *((wrap(name, HALF), look) for name, look in colours.items())]
        ]
        if varied != [hue]:
            room = WIDEST - min(HALF, max(map(len, colours))) - 8
            marks = {
                ", ".join(cell[p] for p in varied if p != hue):
                Look(GREY, self.of[cell].marker, self.of[cell].line) for cell in shown
            }  # fmt: skip
            columns.append(
                [("mark", None), *((wrap(name, room), look) for name, look in marks.items())]
            )
        return Legend(common, columns)


def _hue(cells: Sequence[Parts]) -> int | None:
    """The first factor whose levels fit the colours, while what is left fits the marks."""
    if len(cells) <= len(COLOURS):
        return None
    for place in range(len(cells[0])):
        levels = {cell[place] for cell in cells}
        rests = {cell[:place] + cell[place + 1 :] for cell in cells}
        if 1 < len(levels) <= len(COLOURS) and len(rests) <= len(MARKERS):
            return place
    return None


def shared(cells: Sequence[Parts]) -> tuple[str, list[str]]:
    """What all cells share, and their names without it; a single cell keeps its whole name."""
    common = [
        place for place in range(min(map(len, cells), default=0))
        if len({cell[place] for cell in cells}) == 1
    ]  # fmt: skip
    if len(set(cells)) < 2 or len(set(map(len, cells))) > 1:
        common = []
    names = [
        ", ".join(part for place, part in enumerate(cell) if place not in common) or "all runs"
        for cell in cells
    ]
    return ", ".join(cells[0][place] for place in common), names


def wrap(text: str, width: int) -> str:
    """Text in lines that break between words."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
