"""Figures in one style, safe for colour-blind readers, each with the DataFrame behind it."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.analysis.caption import SHORT, title
from ablate.analysis.effects import Effects
from ablate.metrics import describe

#: Okabe and Ito's palette, told apart with every kind of colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: shapes too, so that nothing hangs on colour alone; a diamond is the SFT policy
MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">", "*")
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True, "svg.fonttype": "none",
    "pdf.fonttype": 42, "figure.dpi": 100, "font.family": "DejaVu Sans", "savefig.bbox": "tight",
    # the same figure is the same file
    "svg.hashsalt": "ablate",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A matplotlib figure and the numbers that it shows."""

    figure: Any
    data: pd.DataFrame

    def svg(self) -> str:
        """The figure as SVG with letters as shapes, which looks the same wherever it is opened."""
        text = io.StringIO()
        import matplotlib as mpl

        with style(), mpl.rc_context({"svg.fonttype": "path"}):
            self.figure.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        picture = io.BytesIO()
        with style():
            self.figure.savefig(picture, format="png", dpi=110)
        return picture.getvalue()

    def save(self, stem: Path) -> list[Path]:
        """Writes `stem`.svg, `stem`.pdf (vector), `stem`.png (300 dots per inch) and `stem`.csv."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        written = []
        for suffix, metadata in ((".svg", {"Date": None}), (".pdf", {"CreationDate": None}),
                                 (".png", None)):  # fmt: skip
            path = stem.with_name(stem.name + suffix)
            with style():
                self.figure.savefig(path, dpi=300, metadata=metadata)
            written.append(path)
        table = stem.with_name(stem.name + ".csv")
        self.data.to_csv(table, index=False)
        return [*written, table]


def style() -> Any:
    """The style of all figures, as a context."""
    import matplotlib as mpl

    return mpl.rc_context(STYLE)


def which_choice_matters(found: Effects, metric: str) -> Figure:
    """Main effects of every level beside the size of every factor and interaction.

    Above: deviation of each level's mean from the mean of all levels, with simultaneous 95 %
    intervals. Below: standard deviation between the effects of each term, with 95 % intervals;
    the dotted line is the spread between seeds, for scale.
    """
    from matplotlib.figure import Figure as Canvas

    scale, unit = describe(metric).scale, describe(metric).unit
    levels = found.levels.assign(panel="levels")
    terms = found.terms.sort_values(["order", "size"], ascending=[False, True])
    factors = list(dict.fromkeys(levels["factor"]))
    height = 1.6 + 0.24 * (len(levels) + len(factors) + len(terms))
    with style():
        canvas = Canvas(figsize=(5.2, height), layout="constrained")
        left, right = canvas.subplots(2, 1, height_ratios=[len(levels) + 1, len(terms) + 1])
        place, ticks, names = 0.0, [], []
        for index, factor in enumerate(factors):
            rows = levels[levels["factor"] == factor]
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            for row in rows.itertuples():
                left.plot([scale * row.low, scale * row.high], [place] * 2, color=colour)
                left.plot(scale * row.effect, place, marker, color=colour)
                ticks.append(place)
                names.append(f"{_factor(factor)} {row.level}")
                place -= 1
            place -= 0.6
        left.axvline(0, color="#444444", linewidth=0.8)
        left.set_yticks(ticks, names)
        left.locator_params(axis="x", nbins=6)
        left.grid(axis="y", visible=False)
        left.set_xlabel(f"{title(metric)}:\nlevel against the mean of its factor")
        for spot, row in enumerate(terms.itertuples()):
            shade = COLOURS[0] if row.order == 1 else COLOURS[1]
            right.plot([scale * row.size_low, scale * row.size_high], [spot] * 2, color=shade)
            right.plot(
                scale * row.size, spot, MARKERS[row.order - 1], color=shade, clip_on=False, zorder=3
            )
        right.axvline(scale * found.sd_seed, color="#444444", linestyle=":")
        right.set_yticks(range(len(terms)), [_term_name(row) for row in terms.itertuples()])
        right.set_xlim(left=0)
        right.grid(axis="y", visible=False)
        right.set_xlabel(f"size: sd between effects{f', {unit}' if unit else ''} (dotted: seeds)")
    shown = terms.assign(panel="terms")
    return Figure(canvas, pd.concat([levels, shown], ignore_index=True))


def _term_name(row: Any) -> str:
    star = "*" if row.p_holm <= 0.05 else ""
    return " × ".join(_factor(part) for part in row.term.split(" × ")) + star


def _factor(column: str) -> str:
    """A factor as the headings of tables call it."""
    name = column.removeprefix("config.")
    return SHORT.get(name, name)
