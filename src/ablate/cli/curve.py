"""The over-optimisation curve of a run, as a table in the terminal."""

from typing import Any

from rich.table import Table

from ablate.printed import fixed

#: column -> title, decimals, factor
COLUMNS = {
    "judge_reward": ("judge", 3, 1),
    "training_reward": ("training reward", 3, 1),
    "kl": ("KL to SFT, nats", 2, 1),
    "length": ("length", 1, 1),
    "truncated": ("cut off, %", 0, 100),
}
#: a longer curve is thinned out; curve.parquet holds all of it
MOST = 16


def curve_table(rounds: list[dict[str, Any]]) -> Table | None:
    """Judge and training reward, KL and length along training; None where none was recorded."""
    points = [(number, point) for number, done in enumerate(rounds, 1) for point in done["curve"]]
    if not points:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    several = len(rounds) > 1
    for title in ("round", "step") if several else ("step",):
        table.add_column(title, justify="right")
    names = [name for name in COLUMNS if name in points[0][1]]
    for name in names:
        table.add_column(COLUMNS[name][0], justify="right")
    for number, point in _thinned(points):
        cells = [fixed(COLUMNS[name][2] * point[name], COLUMNS[name][1]) for name in names]
        place = [str(number)] if several else []
        table.add_row(*place, f"{point['step']:.0f}", *cells)
    return table


def _thinned(points: list[Any]) -> list[Any]:
    """At most so many points, the first and the last among them."""
    if len(points) <= MOST:
        return points
    last = len(points) - 1
    return [points[round(place * last / (MOST - 1))] for place in range(MOST)]
