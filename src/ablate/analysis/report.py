"""A study as one HTML file: tables, figures, answers to read, what is missing, where it is from."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pandas as pd

from ablate.analysis import report_html as h
from ablate.analysis.caption import baseline_of, name_of, number
from ablate.analysis.figures import Figure
from ablate.analysis.report_parts import Maker
from ablate.analysis.table import AblationTable
from ablate.analysis.tuning_notes import chosen_notes
from ablate.metrics import describe


@dataclass
class Report:
    """A finished report, and the figures in it by name."""

    html: str
    figures: dict[str, Figure] = field(default_factory=dict)


def report(
    frame: pd.DataFrame,
    lacking: pd.DataFrame,
    table: AblationTable,
    *,
    name: str,
    commands: list[str],
    damaged: list[str],
) -> Report:
    """Makes the report of a study around its table.

    Args:
        frame, lacking: all runs of the study, as in `results.Study`.
        table: the table that the study is about.
        name: the study's name.
        commands: what was typed to make it and to read it.
        damaged: what was left out as damaged, a sentence each.
    """
    made = Maker(frame, lacking, table)
    metric = table.metrics[0]
    split = metric.partition("/")[2] or "test"
    sections = {
        "table": ("What came out", _table(made, damaged)),
        "differences": ("Differences to the baseline", made.differences(metric)),
        "frontier": ("Reward against KL", made.frontier(split)),
        "overoptimisation": ("Over-optimisation", made.overoptimisation()),
        "training": ("While training", made.training()),
        "choices": ("Which choice matters", made.choices(metric)),
        "tuning": ("Hyper-parameters", made.tuning()),
        "answers": ("Read the answers", made.answers(split)),
        "metrics": ("Every metric", made.metrics(split)),
        "missing": ("Missing and failed runs", made.missing(damaged)),
        "provenance": ("Where it comes from", made.provenance(commands)),
    }
    there = {anchor: entry for anchor, entry in sections.items() if any(entry[1])}
    links = "".join(
        f'<li><a href="#{anchor}">{h.esc(heading)}</a></li>'
        for anchor, (heading, _) in there.items()
    )
    body = "\n".join(
        [
            f'<header><p class="kind">Ablation study</p><h1>{h.esc(name)}</h1>',
            _facts(made, split),
            f'<nav aria-label="Contents"><ul>{links}</ul></nav></header>\n<main>',
            *(h.section(anchor, heading, *parts) for anchor, (heading, parts) in there.items()),
            "</main>\n<footer>Made by ablate from the store's records. This file is all there is: "
            "it asks for nothing over the network.</footer>",
        ]
    )
    return Report(h.page(f"{name}: ablation study", body), made.figures)


def _facts(made: "Maker", split: str) -> str:
    runs, table = made.frame, made.table
    seeds = sorted(set(table.runs["seed"]))
    finished = datetime.fromtimestamp(float(runs["finished"].max()), UTC)
    facts = {
        "runs": f"{len(runs):,} finished" + (
            f", {len(made.lacking):,} not" if len(made.lacking) else ""),
        "arms": f"{len(set(table.runs['arm']))}",
        "seeds": ", ".join(str(seed) for seed in seeds) if len(seeds) < 8 else f"{len(seeds)}",
        "data": ", ".join(dict.fromkeys(runs["dataset"].map(str))),
        "model": ", ".join(dict.fromkeys(runs["base_model"].map(str))),
        "judge": ", ".join(dict.fromkeys(runs.get("config.judge.name", pd.Series()).map(str))),
        "last run": f"{finished:%Y-%m-%d}",
    }  # fmt: skip
    items = "".join(
        f"<div><dt>{h.esc(what)}</dt><dd>{h.esc(told)}</dd></div>" for what, told in facts.items()
    )
    return f'<dl class="facts">{items}</dl>'


def _table(made: "Maker", damaged: list[str]) -> list[str]:
    table = made.table
    absent = len(made.lacking)
    warning = ""
    if absent or damaged:
        told = [f"{absent} runs that were asked for are not in these numbers."] if absent else []
        told += [f"{len(damaged)} damaged records were left out."] if damaged else []
        lines = "".join(h.paragraph(line) for line in told)
        warning = f'<div class="warning">{lines}</div>'
    # a section of their own tells them
    chosen = chosen_notes(table)
    return [
        h.points(in_short(table)),
        warning,
        h.table_of(table),
        h.paragraph(table.caption, "caption"),
        h.points([n for n in table.notes if n not in chosen], "points note"),
    ]


def in_short(table: AblationTable) -> list[str]:
    """What may be said of the first metric, in sentences, and no more than that."""
    metric = table.metrics[0]
    cells = [e for e in table.entries.values() if e.metric == metric and e.runs]
    told = []
    start = table.runs.get(f"reward_sft/{metric.partition('/')[2]}")
    if metric.startswith("reward/") and start is not None and start.notna().any():
        told.append(
            f"The SFT policy, before preference training, stands at {number(start.mean(), metric)}."
        )
    better = describe(metric).better
    known = [e for e in cells if e.mean == e.mean]
    if better and known:
        top = max(known, key=lambda e: better * e.mean)
        best = [name_of(table, e.row, e.col) for e in cells if e.best]
        line = (
            f"The highest mean is {number(top.mean, metric)} ({name_of(table, top.row, top.col)})"
        )
        if len(best) > 1:
            line += f"; {len(best)} cells may be the best of their column"
        told.append(line + ".")
    verdicts: dict[str, list[str]] = {}
    for e in cells:
        if e.comparison is not None:
            verdicts.setdefault(h.verdict(e)[0], []).append(name_of(table, e.row, e.col))
    baseline = baseline_of(table)
    said = {
        "better": "Better than", "worse": "Worse than", "higher": "Higher than",
        "lower": "Lower than",
        "no difference, by the margin": "Shown to differ by less than the margin from",
        "cannot tell": "Not to be told apart from", "cannot be tested": "Not testable against",
    }  # fmt: skip
    told += [
        f"{words} {baseline}: {'; '.join(verdicts[verdict])}."
        for verdict, words in said.items()
        if verdict in verdicts
    ]
    return told
