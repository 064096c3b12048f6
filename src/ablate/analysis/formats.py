"""A table as Markdown, LaTeX (booktabs), CSV or HTML, and the panels that all forms share."""

import html
import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from ablate.analysis.caption import SHORT, number, parts, title
from ablate.analysis.table import AblationTable, Entry, Key


@dataclass(frozen=True)
class Panel:
    """One block of a table: with columns a metric's, without them all metrics side by side."""

    title: str
    headings: list[str]
    #: row -> its entries, one per heading
    lines: dict[Key, list[Entry]]


def panels(table: AblationTable) -> list[Panel]:
    """The blocks in reading order."""
    if not table.col_names:
        lines = {row: [table.entries[row, (), m] for m in table.metrics] for row in table.rows}
        return [Panel("", [title(metric) for metric in table.metrics], lines)]
    headings = [", ".join(parts(table.col_names, col)) for col in table.cols]
    return [
        Panel(
            title(metric),
            headings,
            {row: [table.entries[row, col, metric] for col in table.cols] for row in table.rows},
        )
        for metric in table.metrics
    ]


def row_headings(table: AblationTable) -> list[str]:
    """Headings of the columns that name a row."""
    return [SHORT.get(name, name) for name in table.row_names]


def mark(entry: Entry) -> str:
    """`*` significant, `(*)` by Holm alone, `≈` shown to be no difference; else nothing."""
    found = entry.comparison
    if found is None:
        return ""
    if found["significant"]:
        return "(*)" if found["low"] < 0 < found["high"] else "*"
    return "≈" if found.get("equivalent") is True else ""


def value(entry: Entry) -> str:
    """Mean and half width, or a dash."""
    if math.isnan(entry.mean):
        return "—"
    text = number(entry.mean, entry.metric)
    return text if math.isnan(entry.half) else f"{text} ± {number(entry.half, entry.metric)}"


def remarks(entry: Entry) -> list[str]:
    """What became of the cell's runs, where not all simply finished."""
    asked = entry.runs + sum(entry.lacking.values())
    told = [f"{count} of {asked} {state}" for state, count in entry.lacking.items()]
    if entry.diverged:
        told.append(f"{entry.diverged} of {entry.runs} diverged")
    return told


def remark(entry: Entry) -> str:
    """The same in one line; nothing where all simply finished."""
    return ", ".join(remarks(entry))


def markdown(table: AblationTable) -> str:
    """GitHub's Markdown, the caption above and the notes below."""
    lines = [table.caption, ""]
    for panel in panels(table):
        if panel.title:
            lines += [f"**{panel.title}**", ""]
        names = row_headings(table)
        lines.append("| " + " | ".join([*names, *panel.headings]) + " |")
        lines.append("|" + "---|" * len(names) + "---:|" * len(panel.headings))
        for row, entries in panel.lines.items():
            cells = [_markdown_cell(entry) for entry in entries]
            lines.append(
                "| " + " | ".join([*(level.replace("|", "\\|") for level in row), *cells]) + " |"
            )
        lines.append("")
    lines += [f"- {note.strip()}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_cell(entry: Entry) -> str:
    text = value(entry)
    if entry.best:
        text = f"**{text}**"
    text += mark(entry).replace("*", "\\*")
    told = remark(entry)
    return f"{text} ({told})" if told else text


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "≈": r"$\approx$", "≤": r"$\le$", "—": "--", "×": r"$\times$", "−": "$-$",
    "β": r"$\beta$", "η": r"$\eta$", "γ": r"$\gamma$", "α": r"$\alpha$",
    "≥": r"$\ge$", "→": r"$\to$", "…": r"\ldots{}", "π": r"$\pi$", "λ": r"$\lambda$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "ε": r"$\epsilon$", "’": "'", "“": "``", "”": "''", "–": "--",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is; a sign that it has no letter for becomes a question mark."""
    return "".join(_LATEX[letter] if letter in _LATEX else _known(letter) for letter in text)


def _known(letter: str) -> str:
    # those that LaTeX knows without a package: ASCII, and letters of Latin alphabets
    if ord(letter) < 0x80 or (ord(letter) < 0x180 and letter.isalpha()):
        return letter
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return plain or "?"


def latex(table: AblationTable) -> str:
    """A booktabs table (`\\usepackage{booktabs}`); notes as a paragraph below it."""
    out = [r"\begin{table}[t]", r"\centering", rf"\caption{{{escape_latex(table.caption)}}}"]
    for panel in panels(table):
        names = row_headings(table)
        out.append(r"\begin{tabular}{" + "l" * len(names) + "r" * len(panel.headings) + "}")
        out.append(r"\toprule")
        if panel.title:
            width = len(panel.headings)
            first, last = len(names) + 1, len(names) + width
            gap = "& " * len(names)
            out.append(rf"{gap}\multicolumn{{{width}}}{{c}}{{{escape_latex(panel.title)}}} \\")
            out.append(rf"\cmidrule(lr){{{first}-{last}}}")
        out.append(" & ".join(escape_latex(name) for name in [*names, *panel.headings]) + r" \\")
        out.append(r"\midrule")
        for row, entries in panel.lines.items():
            cells = [_latex_cell(entry) for entry in entries]
            out.append(" & ".join([*(escape_latex(level) for level in row), *cells]) + r" \\")
        out += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        out.append(r"\par\smallskip\footnotesize\raggedright")
        out += [escape_latex(note.strip()) + r"\\" for note in table.notes]
    out.append(r"\end{table}")
    return "\n".join(out) + "\n"


def _latex_cell(entry: Entry) -> str:
    text = escape_latex(value(entry))
    if entry.best:
        # \boldmath reaches the sign between mean and half width too
        text = rf"{{\boldmath\bfseries {text}}}"
    sign = {"*": "$^{*}$", "(*)": "$^{(*)}$", "≈": r"$^{\approx}$", "": ""}[mark(entry)]
    told = remark(entry)
    return text + sign + (rf" {{\scriptsize ({escape_latex(told)})}}" if told else "")


def csv(table: AblationTable) -> str:
    """Every number, one line per cell and metric; the caption and notes as comments on top."""
    told = "".join(f"# {line.strip()}\n" for line in [table.caption, *table.notes])
    return told + str(table.data.to_csv(index=False))


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; color: #111; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; border: solid; border-width: 2px 0; }
th, td { padding: .25rem .75rem; text-align: left; }
thead th { border-bottom: 1px solid; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
small { color: #555; } .scroll { overflow-x: auto; }
"""


def to_html(table: AblationTable) -> str:
    """One file that needs nothing else."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>ablate</title><style>{_STYLE}</style></head><body>",
        f"<p>{html.escape(table.caption)}</p>",
    ]
    for panel in panels(table):
        names = "".join(f"<th>{html.escape(name)}</th>" for name in row_headings(table))
        heads = "".join(f'<th class="n">{html.escape(name)}</th>' for name in panel.headings)
        if panel.title:
            parts.append(f"<h2>{html.escape(panel.title)}</h2>")
        parts.append(f'<div class="scroll"><table><thead><tr>{names}{heads}</tr></thead><tbody>')
        for row, entries in panel.lines.items():
            levels = "".join(f"<th>{html.escape(level)}</th>" for level in row)
            parts.append(f"<tr>{levels}{''.join(_html_cell(entry) for entry in entries)}</tr>")
        parts.append("</tbody></table></div>")
    if table.notes:
        items = "".join(f"<li>{html.escape(note.strip())}</li>" for note in table.notes)
        parts.append(f"<ul>{items}</ul>")
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"


def _html_cell(entry: Entry) -> str:
    text = html.escape(value(entry))
    if entry.best:
        text = f"<strong>{text}</strong>"
    told = remark(entry)
    small = f" <small>{html.escape(told)}</small>" if told else ""
    return f'<td class="n">{text}{html.escape(mark(entry))}{small}</td>'


FORMATS: dict[str, Callable[[AblationTable], str]] = {
    "md": markdown,
    "latex": latex,
    "csv": csv,
    "html": to_html,
}
