"""An ablation table on the terminal: panels, differences to the baseline, notes."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.analysis.caption import glued, name_of, number, title
from ablate.analysis.formats import mark, panels, remarks, row_headings, value
from ablate.analysis.table import AblationTable, Entry
from ablate.cli.whole import print_in_parts, print_paragraph, print_whole
from ablate.metrics import describe
from ablate.printed import fixed


def show(console: Console, table: AblationTable) -> None:
    """Prints the table with its caption and notes."""
    for panel in panels(table):
        grid = _grid()
        for name in row_headings(table):
            grid.add_column(name, no_wrap=True)
        for heading in panel.headings:
            grid.add_column(heading, justify="right", no_wrap=True)
        for row, entries in panel.lines.items():
            grid.add_row(*row, *(_cell(entry) for entry in entries))
        if panel.title:
            console.print(f"[bold]{panel.title}[/]", highlight=False)
        print_in_parts(console, grid, len(row_headings(table)))
        console.print()
    _differences(console, table)
    print_paragraph(console, glued(table.caption), style="dim")
    for note in table.notes:
        # a colon-free indent marks the lines that belong to the note above
        under = note.startswith("  ")
        lead, indent = ("    ", 8) if under else ("note: ", 6)
        print_paragraph(console, glued(note.strip()), style="dim", first=lead, indent=indent)


def _grid() -> Table:
    return Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _cell(entry: Entry) -> Text:
    text = Text(value(entry), style="bold" if entry.best else "")
    text.append(mark(entry).ljust(1), style="not bold")
    for told in remarks(entry):
        text.append(f"\n{told} ", style="yellow not bold")
    return text


def _differences(console: Console, table: AblationTable) -> None:
    """The comparisons behind the stars: difference, simultaneous interval, corrected p."""
    for metric in table.metrics:
        entries = [e for e in table.entries.values() if e.metric == metric]
        shown = [(e, e.comparison) for e in entries if e.comparison is not None]
        if not shown:
            continue
        what = f": {title(metric)}" if len(table.metrics) > 1 else ""
        console.print(f"[bold]difference to the baseline{what}[/]", highlight=False)
        grid = _grid()
        grid.add_column("")
        for heading in ("by", "simultaneous\n95 %", "p, Holm", "in sd"):
            grid.add_column(heading, justify="right", no_wrap=True)
        grid.add_column("")
        for entry, found in shown:
            grid.add_row(
                name_of(table, entry.row, entry.col), *_numbers(entry, found), verdict(entry, found)
            )
        print_whole(console, grid)
        console.print()


def _numbers(entry: Entry, found: dict[str, Any]) -> list[str]:
    if math.isnan(found["difference"]):
        return ["—", "—", "—", "—"]
    gap = number(found["difference"], entry.metric, sign=True)
    if math.isnan(found["p"]):
        return [gap, "—", "—", "—"]
    low, high = (number(found[end], entry.metric, sign=True) for end in ("low", "high"))
    p = found["p_holm"]
    return [
        gap,
        f"{low} … {high}",
        "< 0.001" if p < 0.001 else f"{p:.3f}",
        fixed(found["effect"], 1, sign=True),
    ]


def verdict(entry: Entry, found: dict[str, Any]) -> str:
    """What may be said of a comparison."""
    if math.isnan(found["p"]):
        return "cannot be tested"
    if found["significant"]:
        better = describe(entry.metric).better
        if better == 0:
            return "higher" if found["difference"] > 0 else "lower"
        return "better" if better * found["difference"] > 0 else "worse"
    return "no difference, by the margin" if found.get("equivalent") is True else "cannot tell"
