"""The table that ends a sweep on the screen, with notes on everything that qualifies it."""

import math

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ablate.analysis import Cell, cells, varied_settings
from ablate.cli.whole import print_whole
from ablate.launch.local import RunOutcome
from ablate.printed import fixed

#: column -> title, decimals and factor; the last ones give way where the terminal is narrow
METRICS = {
    "reward/test": ("reward, test", 3, 1.0),
    "win_rate/test": ("win rate, %", 1, 100.0),
    "kl/test": ("KL, nats", 2, 1.0),
    "reward/ood": ("reward, ood", 3, 1.0),
    "length/test": ("length", 1, 1.0),
}
SHORT = {"num_responses": "K"}


def show_table(console: Console, frame: pd.DataFrame, outcomes: list[RunOutcome]) -> None:
    """Prints cells with mean ± 95 % over seeds, and below it what a reader must know."""
    if not frame.empty:
        keys = varied_settings(frame)
        metrics = [metric for metric in METRICS if metric in frame]
        found = cells(frame, keys, metrics)
        shown = _fitting(console, found, keys, metrics)
        print_whole(console, _render(found, keys, shown))
        if len(shown) < len(metrics):
            left_out = ", ".join(METRICS[metric][0] for metric in metrics[len(shown) :])
            console.print(f"[dim]a wider terminal shows: {left_out}[/]")
        for note in _notes(frame, found, metrics):
            console.print(f"[dim]{note}[/]")
    show_failed(console, outcomes)


def show_failed(console: Console, outcomes: list[RunOutcome]) -> None:
    """Prints the runs that failed, each with its reason and log."""
    for outcome in (outcome for outcome in outcomes if outcome.status == "failed"):
        console.print(f"[red]failed[/]  {outcome.name}: {outcome.reason}")
        if outcome.log is not None:
            console.print(f"        log {outcome.log}", style="dim")


def _fitting(console: Console, found: list[Cell], keys: list[str], metrics: list[str]) -> list[str]:
    """As many of the metrics as the console has room for, at least one."""
    shown = list(metrics)
    unbounded = console.options.update(max_width=1000)
    while len(shown) > 1:
        width = Measurement.get(console, unbounded, _render(found, keys, shown)).maximum
        if width <= console.width:
            break
        shown.pop()
    return shown


def _render(found: list[Cell], keys: list[str], metrics: list[str]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for key in keys:
        table.add_column(SHORT.get(key, key.removeprefix("config.")), no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    for metric in metrics:
        table.add_column(METRICS[metric][0], justify="right", no_wrap=True)
    if any(cell.diverged for cell in found):
        table.add_column("diverged", justify="right")
    for cell in found:
        values = []
        for metric in metrics:
            _, digits, factor = METRICS[metric]
            text = fixed(factor * cell.mean[metric], digits)
            if not math.isnan(cell.half[metric]):
                text += " ± " + fixed(factor * cell.half[metric], digits)
            values.append(text)
        labels = [str(cell.labels[key]) for key in keys]
        extra = [str(cell.diverged)] if any(other.diverged for other in found) else []
        table.add_row(*labels, str(cell.seeds), *values, *extra)
    return table


def _notes(frame: pd.DataFrame, found: list[Cell], metrics: list[str]) -> list[str]:
    notes = []
    seeds = {cell.seeds for cell in found}
    if min(seeds) > 1:
        notes.append(
            "mean ± 95 % t-interval over seeds; `ablate table --baseline` tests differences"
        )
    else:
        notes.append("cells with one seed have no interval: they cannot be compared")
    if len(seeds) > 1:
        notes.append(f"unequal seeds: cells hold {min(seeds)} to {max(seeds)} runs")
    if seeds == {2}:
        notes.append("two seeds give very wide intervals; three to five are worth their time")
    sft = [c for c in frame.columns if c == "reward_sft/test"]
    if sft:
        notes.append(f"SFT policy: reward, test {fixed(frame[sft[0]].mean(), 3)}")
    rows = [tuple(cell.mean[metric] for metric in metrics) for cell in found]
    if len(set(rows)) < len(rows):
        notes.append("two rows hold identical numbers: they may be the same run under two names")
    if frame["commit"].nunique(dropna=False) > 1:
        notes.append("runs come from different commits of ablate")
    return notes
