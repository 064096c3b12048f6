"""The sections of a report, each a list of HTML pieces; empty where a study has no such thing."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from ablate.analysis import arms, plots
from ablate.analysis import report_html as h
from ablate.analysis.build import at_equal_kl, build
from ablate.analysis.caption import name_of, title
from ablate.analysis.effects import effects
from ablate.analysis.figures import Figure, which_choice_matters
from ablate.analysis.formats import value
from ablate.analysis.lack_of_fit import assumed
from ablate.analysis.measure import PARTNER, answer_values, available, measure
from ablate.analysis.report_origin import origin_of, settings_of
from ablate.analysis.samples import samples, score_range, shown_seed
from ablate.analysis.table import AblationTable, Question
from ablate.analysis.tuning_notes import chosen_notes
from ablate.errors import AblateError
from ablate.metrics import METRICS

#: metrics side by side in one of the tables of every metric
ABREAST = 6
#: studies of more runs are not read through for metrics that need every answer
READ_THROUGH = 400


class Maker:
    """Makes the sections of one study's report, and keeps their figures."""

    def __init__(self, frame: pd.DataFrame, lacking: pd.DataFrame, table: AblationTable) -> None:
        self.frame, self.lacking, self.table = frame, lacking, table
        self.figures: dict[str, Figure] = {}

    def _figure(self, stem: str, made: Figure | None, told: str) -> str:
        if made is not None:
            self.figures[stem] = made
        return h.figure(made, stem, told)

    def differences(self, metric: str) -> list[str]:
        """Forest plot and table of the comparisons."""
        margin = self.table.question.margin
        band = f" The grey band is the margin of ±{margin:g}." if margin is not None else ""
        return [
            self._figure(
                "differences",
                plots.differences(self.table, metric),
                "Differences with intervals that hold all at once with 95 %. Blue and pointing up: "
                "higher by the corrected test; orange and pointing down: lower; green squares: "
                "shown to lie within the margin; grey circles: cannot tell." + band,
            ),
            *(
                (h.paragraph(title(name), "note") if len(self.table.metrics) > 1 else "") + found
                for name in self.table.metrics
                if (found := h.comparisons(self.table, name))
            ),
        ]

    def frontier(self, split: str) -> list[str]:
        """Reward against KL, and the arms at equal KL."""
        picture = self._figure(
            "frontier",
            plots.frontier(self.table, split),
            "Higher is better, further left stays closer to the SFT policy. Small marks are runs, "
            "large ones means over seeds with 95 % intervals.",
        )
        equal = self._or_none(lambda: at_equal_kl(self.table, split))
        if not picture or equal is None:
            return [picture]
        return [
            picture,
            "<h3>At equal KL</h3>",
            h.table_of(equal),
            h.paragraph(equal.caption, "caption"),
            h.points(new_notes(equal.notes, self.table.notes), "points note"),
        ]

    def overoptimisation(self) -> list[str]:
        """Judge and training reward along training."""
        return [
            self._figure(
                "overoptimisation",
                plots.overoptimisation(self.table),
                "What judge and training reward say of the policy while it moves away from SFT. "
                "Over-optimisation is a judge that falls while the training reward rises. Thin "
                "lines are single runs.",
            )
        ]

    def training(self) -> list[str]:
        """Step metrics."""
        return [
            self._figure(
                "training",
                plots.learning(self.table),
                "Means over the runs of an arm. Losses of different objectives have no common "
                "scale, so none is shown.",
            )
        ]

    def choices(self, metric: str) -> list[str]:
        """Main effects, or why there are none."""
        names = [*self.table.row_names, *self.table.col_names]
        runs = arms.one_per_seed(self.table.runs).frame.drop_duplicates("id")
        if metric not in runs:
            return []
        factors = []
        for name in names:
            column = arms.column_of(runs, name)
            if runs[column].map(arms.plain).nunique() > 1:
                factors.append(column)
        if not factors or not self.table.same_scale:
            return []
        levels = {factor: runs[factor].map(arms.plain) for factor in factors}
        data = pd.DataFrame(
            {
                "id": runs["id"],
                **levels,
                "block": runs["block"],
                "value": runs[metric].astype(float),
            }
        ).dropna(subset=["value"])
        answers = None
        try:
            if metric.startswith("reward/") and len(data) <= READ_THROUGH:
                answers = answer_values(runs, metric.partition("/")[2])
                answers = answers.merge(data.drop(columns="value"), on="id")
            found = effects(data, factors, answers)
        except AblateError as error:
            return [h.paragraph(f"Main effects cannot be told: {error}.", "note")]
        told = assumed(
            [" × ".join(map(arms.short, pair.split(" × "))) for pair in found.left_out], found.fit
        )
        random = "Prompts and seeds" if answers is not None else "Seeds"
        return [
            self._figure(
                "choices",
                which_choice_matters(found, metric),
                f"Above: each level against the mean of its factor, with intervals that hold all "
                f"at once with 95 %. Below: the size of each factor and interaction; * p ≤ 0.05 "
                f"after Holm. {random} are random (linear mixed model).",
            ),
            h.points([line for line in (told, *self._unsure()) if line], "points note"),
        ]

    def _unsure(self) -> list[str]:
        """What makes effects look surer than they are."""
        told = []
        if self.table.tuned:
            told.append(
                "the effects are of tuned arms: the luck of the draw of trials is in no interval"
            )
        if self.table.repeated.shared or not self.table.repeated.pooled:
            told.append(
                "some arms report checkpoints of the same policies, which the model takes for "
                "independent runs"
            )
        return told

    def tuning(self) -> list[str]:
        """Trials of tuned cells."""
        by = self.table.question.choose_by
        first = self.table.metrics[0]
        rows = []
        for e in self.table.entries.values():
            if e.metric == first and e.tuned is not None:
                name = name_of(self.table, e.row, e.col)
                rows += [
                    {"name": name, "trial": t, "value": v, "chosen": t == e.tuned.chosen}
                    for t, v in e.tuned.tried
                ]
        if not rows or by is None:
            return []
        return [
            self._figure(
                "tuning",
                plots.trials(pd.DataFrame(rows), by, plots.arms_of(self.table)),
                "Every trial's mean on the valid prompts; the filled one was chosen and is "
                "reported elsewhere with other seeds. A short line is an arm that forgives.",
            ),
            h.points(chosen_notes(self.table), "points note"),
        ]

    def answers(self, split: str) -> list[str]:
        """A few prompts with all arms' answers."""
        shown = self._or_none(lambda: samples(self.table, split))
        if not shown:
            return []
        return [
            h.paragraph(
                f"One answer per arm, from the runs of seed {shown_seed(self.table)}, with the "
                "judge's score. Three prompts were drawn blindly; three are those on which the "
                "arms differ most, which flatters differences.",
                "note",
            ),
            h.answers(shown, *score_range(shown)),
        ]

    def metrics(self, split: str) -> list[str]:
        """One line per cell with every metric of the registry that its runs have."""
        known = set(available(self.table.runs))
        wanted = []
        for name, item in METRICS.items():
            column = name if name in known else f"{name}/{split}"
            heavy = item.compute is not None and column not in self.table.runs
            if item.against and self.table.runs[PARTNER].isna().all():
                continue
            if column in known and not (heavy and len(self.table.runs) > READ_THROUGH):
                wanted.append(column)
        rows = (*self.table.row_names, *self.table.col_names)
        runs, kept = self.table.runs, list[str]()
        for metric in wanted:
            measured = self._or_none(partial(measure, runs, metric))
            if measured is not None and measured[metric].notna().any():
                runs, kept = measured, [*kept, metric]
        question = Question(rows=rows, metrics=tuple(kept))
        one = self._or_none(lambda: build(runs, pd.DataFrame(), question)) if kept else None
        if one is None:
            return []
        parts = []
        for start in range(0, len(kept), ABREAST):
            some = kept[start : start + ABREAST]
            lines = [
                [
                    h.esc(name_of(one, row, ())),
                    *(h.whole(value(one.entries[row, (), metric])) for metric in some),
                ]
                for row in one.rows
            ]
            parts.append(h.grid(["", *map(h.heading_of, some)], lines))
        told = "Mean ± 95 % t-interval over seeds; not tested. What each is: docs/tables.md."
        return [*parts, h.paragraph(told, "caption")]

    def missing(self, damaged: list[str]) -> list[str]:
        """Runs that were asked for and are not there, with reasons."""
        rows, cells = [], dict[str, str]()
        for line in self.table.lacking.to_dict("records"):
            cells[line["id"]] = name_of(self.table, line["row"], line["col"])
        for line in self.lacking.to_dict("records"):
            # runs that belong to no cell of this table have no other name than their settings
            words = (
                f"{cells[line['id']]} seed {line['seed']}"
                if line["id"] in cells
                else " ".join(
                    f"{name}={arms.plain(line[name])}"
                    for name in ("objective", "num_responses", "reward", "collection", "seed")
                    if name in line
                )
            )
            reason = (str(line["reason"]).splitlines() or [""])[0]
            rows.append([h.esc(words), h.esc(str(line["state"])), h.esc(reason),
                         f"<code>{h.esc(str(line['id'])[:12])}</code>"])  # fmt: skip
        diverged = self.table.runs[self.table.runs["status"] == "diverged"]
        parts = [
            h.grid(["run", "state", "reason", "id"], rows, 4) if rows else "",
            h.points(damaged),
        ]
        if len(diverged):
            names = ", ".join(
                f"{name_of(self.table, *arm)} seed {seed}"
                for arm, seed in zip(diverged["arm"], diverged["seed"], strict=True)
            )
            parts.append(
                h.paragraph(f"Diverged, scored at the last finite checkpoint and counted: {names}.")
            )
        if not any(parts):
            parts = [h.paragraph("None: every run that was asked for is in the table.")]
        return parts

    def provenance(self, commands: list[str]) -> list[str]:
        """Commands, versions, machines, settings, and the runs by id."""
        told = "\n".join(commands)
        common, varied = settings_of(self.table.runs)
        facts = [[h.esc(what), h.esc(value)] for what, value in origin_of(self.frame)]
        runs = plots.named(self.table)
        listed = [
            [h.esc(name), str(seed), h.esc(str(status)), f"<code>{h.esc(i[:12])}</code>"]
            for name, seed, status, i in zip(
                runs["name"], runs["seed"], runs["status"], runs["id"], strict=True
            )
        ]
        return [
            f"<pre>{h.esc(told)}</pre>" if told else "",
            h.grid(["", ""], facts, 2),
            "<h3>What differs between the runs</h3>" if varied else "",
            h.grid(["setting", "values"], varied, 2) if varied else "",
            f"<details><summary>the {len(common)} settings that all runs share</summary>"
            f"{h.grid(['setting', 'value'], common, 2)}</details>",
            f"<details><summary>the {len(listed)} runs of the table</summary>"
            f"{h.grid(['cell', 'seed', 'status', 'id'], listed, 4)}</details>",
        ]

    @staticmethod
    def _or_none(make: Callable[[], Any]) -> Any:
        """What is made, or None where these runs cannot give it."""
        try:
            return make()
        except AblateError:
            return None


def new_notes(notes: Sequence[str], known: Sequence[str]) -> list[str]:
    """The notes that are not known, each with the indented lines that belong to it."""

    def grouped(lines: Sequence[str]) -> list[tuple[str, ...]]:
        groups: list[tuple[str, ...]] = []
        for line in lines:
            if line.startswith("  ") and groups:
                groups[-1] = (*groups[-1], line)
            else:
                groups.append((line,))
        return groups

    there = grouped(known)
    return [line for group in grouped(notes) if group not in there for line in group]
