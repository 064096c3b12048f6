"""Pieces of a report as HTML: tables, verdicts, figures with their numbers, answers to read."""

import base64
import html
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import pandas as pd

from ablate.analysis.caption import glued, name_of, number, title
from ablate.analysis.figures import Figure
from ablate.analysis.formats import mark, panels, remark, row_headings, value
from ablate.analysis.samples import Sample
from ablate.analysis.table import AblationTable, Entry
from ablate.metrics import describe
from ablate.printed import fixed

#: rows of a figure's numbers that are shown; the download holds all
ROWS_SHOWN = 40
#: opens what is folded while the page is printed
_SCRIPT = """addEventListener("beforeprint", () => document.querySelectorAll("details")
.forEach(d => { d.dataset.was = d.open; d.open = true; }));
addEventListener("afterprint", () => document.querySelectorAll("details")
.forEach(d => { d.open = d.dataset.was === "true"; }));"""

esc = html.escape


def page(title_: str, body: str) -> str:
    """A whole file that needs nothing else and asks for nothing."""
    css = resources.files("ablate.analysis").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{esc(title_)}</title>\n<style>{css}</style></head>\n<body>\n{body}\n"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def section(anchor: str, heading: str, *parts: str) -> str:
    """A section, or nothing where it has no content."""
    inner = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}"><h2>{esc(heading)}</h2>\n{inner}\n</section>' if inner else ""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(kind)}>{esc(glued(text))}</p>"


def points(lines: Sequence[str], kind: str = "points") -> str:
    """A list of plain sentences; nothing where there is none."""
    items = "".join(
        f"<li{_class('under' if line.startswith('  ') else '')}>{esc(glued(line.strip()))}</li>"
        for line in lines
    )
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of finished HTML cells; all but the first `left` columns are right-aligned."""
    head = "".join(
        f"<th{_class('n' if i >= left else '')}>{esc(h)}</th>" for i, h in enumerate(headings)
    )
    lines = []
    for row in rows:
        cells = "".join(
            f"<th>{cell}</th>" if i < left else f'<td class="n">{cell}</td>'
            for i, cell in enumerate(row)
        )
        lines.append(f"<tr>{cells}</tr>")
    top = f"<thead><tr>{head}</tr></thead>" if any(headings) else ""
    return (
        f'<div class="scroll" tabindex="0"><table>{top}'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def table_of(table: AblationTable) -> str:
    """The panels of a table with its caption."""
    parts = []
    for panel in panels(table):
        if panel.title:
            parts.append(f"<h3>{esc(panel.title)}</h3>")
        names = row_headings(table)
        rows = [
            [*(esc(level) for level in row), *(_cell(entry) for entry in entries)]
            for row, entries in panel.lines.items()
        ]
        parts.append(grid([*names, *panel.headings], rows, len(names)))
    return "\n".join(parts)


def whole(text: str) -> str:
    """A number with what belongs to it, which stay on one line."""
    return esc(text).replace(" ", "\u00a0")


def _cell(entry: Entry) -> str:
    text = whole(value(entry))
    if entry.best:
        text = f"<strong>{text}</strong>"
    told = remark(entry)
    return text + esc(mark(entry)) + (f"<small>{esc(told)}</small>" if told else "")


def comparisons(table: AblationTable, metric: str) -> str:
    """Differences to the baseline with a verdict in words; nothing where none was tested."""
    rows = []
    for entry in table.entries.values():
        found = entry.comparison
        if entry.metric != metric or found is None or math.isnan(found["difference"]):
            continue
        gap = number(found["difference"], metric, sign=True)
        interval, p = "—", "—"
        if not math.isnan(found["p"]):
            low, high = (number(found[end], metric, sign=True) for end in ("low", "high"))
            interval = whole(f"{low} … {high}")
            p = whole("< 0.001" if found["p_holm"] < 0.001 else f"{found['p_holm']:.3f}")
        name = esc(name_of(table, entry.row, entry.col))
        rows.append([name, gap, interval, p, chip(*verdict(entry))])
    if not rows:
        return ""
    return grid(["", "difference", "simultaneous 95\u00a0%", "p, Holm", ""], rows)


def verdict(entry: Entry) -> tuple[str, str]:
    """What may be said of a comparison, and its kind: better, worse, same or open."""
    found = entry.comparison
    assert found is not None
    if math.isnan(found["p"]):
        return "cannot be tested", "open"
    if found["significant"]:
        better = describe(entry.metric).better
        if better == 0:
            return ("higher" if found["difference"] > 0 else "lower"), "open"
        return ("better", "better") if better * found["difference"] > 0 else ("worse", "worse")
    if found.get("equivalent") is True:
        return "no difference, by the margin", "same"
    return "cannot tell", "open"


def chip(text: str, kind: str) -> str:
    """A verdict as a small label."""
    return f'<span class="chip {kind}">{esc(text)}</span>'


def figure(made: Figure | None, stem: str, told: str) -> str:
    """A figure, what it shows in words, and the numbers behind it."""
    if made is None:
        return ""
    data = base64.b64encode(made.svg().encode()).decode()
    csv = base64.b64encode(made.data.to_csv(index=False).encode()).decode()
    return (
        f'<figure><img alt="{esc(told, quote=True)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{esc(glued(told))}</figcaption>"
        f"<details><summary>the numbers behind it</summary>{_numbers(made.data)}"
        f'<p class="download"><a download="{stem}.csv" href="data:text/csv;base64,{csv}">'
        f"all {len(made.data):,} rows as CSV</a></p></details></figure>"
    )


def _numbers(data: pd.DataFrame) -> str:
    if "panel" in data:
        # what the panels of a figure show has columns of its own
        parts = [part.drop(columns="panel") for _, part in data.groupby("panel", sort=False)]
        return "".join(_numbers(part.dropna(axis="columns", how="all")) for part in parts)
    words = [name for name in data if pd.api.types.is_string_dtype(data[name])]
    shown = data[[*words, *(name for name in data if name not in words)]].head(ROWS_SHOWN)
    rows = [[esc(_plain(value)) for value in row] for row in shown.itertuples(index=False)]
    more = len(data) - len(shown)
    rest = paragraph(f"and {more:,} more rows in the CSV", "note") if more > 0 else ""
    return grid([str(name) for name in shown.columns], rows, max(1, len(words))) + rest


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def answers(shown: Sequence[Sample], low: float, high: float) -> str:
    """Prompts with the answers of all arms, scores as bars."""
    cards = []
    width = max(high - low, 1e-9)
    for sample in shown:
        lines = [f'<p class="prompt"><span class="why">{esc(sample.why)}</span>'
                 f"{esc(sample.prompt)}</p>"]  # fmt: skip
        for who, score, text in sample.answers:
            share = 100 * (score - low) / width
            lines.append(
                f'<div class="answer"><span class="who">{esc(who)}</span>'
                f'<span class="score">{fixed(score, 2)}'
                f'<span class="bar" style="width:{share:.0f}%"></span></span>'
                f'<span class="text">{esc(text)}</span></div>'
            )
        cards.append(f'<div class="card">{"".join(lines)}</div>')
    return "\n".join(cards)


def heading_of(metric: str) -> str:
    """A metric's heading with a capital letter."""
    told = title(metric)
    return told[:1].upper() + told[1:]


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
