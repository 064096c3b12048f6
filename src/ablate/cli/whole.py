"""Tables on a terminal in which nothing is cut off: words wrap, numbers do not."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

#: wider than any line
WIDE = 10_000


def print_whole(console: Console, table: Table) -> None:
    """Prints a table with every word and number of it, whatever the width of the console.

    Columns with `no_wrap` keep their width, the others give way down to their longest word. If
    that is still too wide, lines are longer than the console: better than numbers cut off.
    """
    least, most = zip(*(_span(table, place) for place in range(len(table.columns))), strict=True)
    gaps = (table.padding[1] + table.padding[3]) * len(least)
    spare = max(0, console.width - gaps - sum(least))
    # the columns that want little have it first; what is left is for those that want much
    wanted = {place: most[place] - least[place] for place in range(len(least))}
    for left, place in zip(
        range(len(wanted), 0, -1), sorted(wanted, key=wanted.__getitem__), strict=True
    ):
        share = min(wanted[place], spare // left)
        spare -= share
        table.columns[place].width = least[place] + share
    width = gaps + sum(column.width or 0 for column in table.columns)
    there = console if width <= console.width else Console(width=width, file=console.file)
    there.print(table)


def _span(table: Table, place: int) -> tuple[int, int]:
    """Least and greatest width of a column: that of its longest word, and of its longest line."""
    wide = Console(width=WIDE)
    column = table.columns[place]
    cells = [Measurement.get(wide, wide.options, cell) for cell in (column.header, *column.cells)]
    most = max(cell.maximum for cell in cells)
    return most if column.no_wrap else max(cell.minimum for cell in cells), most
