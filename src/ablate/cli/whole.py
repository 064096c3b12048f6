"""Tables and paragraphs on a terminal in which nothing is cut off: words wrap, numbers do not."""

import textwrap

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: wider than any line
WIDE = 10_000


def print_whole(console: Console, table: Table) -> None:
    """Prints a table with every word and number of it, whatever the width of the console.

    Headings wrap at words, and cells too unless their column has `no_wrap`; columns give way down
    to their longest word. If that is still too wide, lines are longer than the console: better
    than numbers cut off.
    """
    least, most = zip(*(_span(table, place) for place in range(len(table.columns))), strict=True)
    gaps = _gap(table) * (len(least) - 1)
    spare = max(0, console.width - gaps - sum(least))
    # the columns that want little have it first; what is left is for those that want much
    wanted = {place: most[place] - least[place] for place in range(len(least))}
    for left, place in zip(
        range(len(wanted), 0, -1), sorted(wanted, key=wanted.__getitem__), strict=True
    ):
        share = min(wanted[place], spare // left)
        spare -= share
        column = table.columns[place]
        column.width = least[place] + share
        # wrapped here: `no_wrap` is for the cells below
        column.header = _wrapped(str(column.header), column.width)
    width = gaps + sum(column.width or 0 for column in table.columns)
    there = console if width <= console.width else Console(width=width, file=console.file)
    there.print(table)


def print_in_parts(console: Console, table: Table, keys: int) -> None:
    """Prints a table whole; where the console is too narrow, its columns in several tables.

    Args:
        keys: how many columns, from the left, name a row: every part begins with them.
    """
    least = [_span(table, place)[0] for place in range(len(table.columns))]
    begin = sum(least[:keys]) + _gap(table) * (keys - 1)
    parts: list[list[int]] = []
    width = WIDE
    for place in range(keys, len(least)):
        width += _gap(table) + least[place]
        if width > console.width:
            parts.append([])
            width = begin + _gap(table) + least[place]
        parts[-1].append(place)
    for number, part in enumerate(parts):
        if number:
            console.print()
        print_whole(console, _columns_of(table, [*range(keys), *part]))


def print_paragraph(console: Console, text: str, *, style: str = "", first: str = "",
                    indent: int = 0) -> None:  # fmt: skip
    """Prints text that wraps between words and lines up below its own first word.

    Args:
        text: its hard blanks (U+00A0) are blanks at which no line breaks.
        first: what stands before the text.
        indent: blanks before every further line; those of an indented text are counted here too.
    """
    # a console of long lines keeps them where a program reads
    long = console.soft_wrap and not console.is_terminal
    lines = textwrap.wrap(
        text, WIDE if long else console.width, initial_indent=first, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    told = "\n".join(lines).replace("\u00a0", " ")
    console.print(Text(told, style=style), soft_wrap=True)


def _gap(table: Table) -> int:
    return table.padding[1] + table.padding[3]


def _columns_of(table: Table, places: list[int]) -> Table:
    """Some columns of a table, as a table."""
    part = Table(
        header_style=table.header_style, box=table.box, pad_edge=table.pad_edge,
        padding=table.padding,
    )  # fmt: skip
    for place in places:
        column = table.columns[place]
        part.add_column(column.header, justify=column.justify, no_wrap=column.no_wrap)
    for row in zip(*(table.columns[place].cells for place in places), strict=True):
        part.add_row(*row)
    return part


def _wrapped(heading: str, width: int) -> str:
    lines = [
        textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
        for line in heading.splitlines()
    ]
    return "\n".join(part for line in lines for part in line)


def _span(table: Table, place: int) -> tuple[int, int]:
    """Least and greatest width of a column: that of its longest word, and of its longest line."""
    wide = Console(width=WIDE)
    column = table.columns[place]
    cells = [Measurement.get(wide, wide.options, cell) for cell in column.cells]
    words = max(map(cell_len, str(column.header).split()), default=0)
    lines = max(map(cell_len, str(column.header).splitlines()), default=0)
    most = max((cell.maximum for cell in cells), default=0)
    least = most if column.no_wrap else max((cell.minimum for cell in cells), default=0)
    return max(words, least), max(lines, most)
