"""Words of a table: names of cells and metrics, numbers in their units, the caption."""

import re
from collections.abc import Sequence

import pandas as pd

from ablate.analysis.table import AblationTable, Key
from ablate.metrics import describe
from ablate.printed import fixed
from ablate.results.sweeps import SweepNote

#: names that a table's heading may shorten
SHORT = {
    "num_responses": "K",
    "training.select_checkpoint": "checkpoint",
    "reward.training.num_labels": "num_labels",
    "collection.rounds": "rounds",
    "dataset.train_prompts": "train_prompts",
}
#: factors whose levels need no name before them
SPEAKING = ("objective", "reward", "base_model", "dataset", "collection")
#: blanks between a number and its sign or unit
_BESIDE = re.compile(r"(?<=\d) (?=[%±])|(?<=[≤≥±]) (?=\d)|(?<=\w) (?=[≤≥]\s)|(?<=\*) (?=p)")


def parts_of(table: AblationTable, row: Key, col: Key) -> tuple[str, ...]:
    """What a cell's name is made of, a part per factor: `dpo` and `K=2`."""
    return parts([*table.row_names, *table.col_names], [*row, *col])


def parts(names: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
    """Levels as people call them; those that do not speak for themselves with their factor."""
    return tuple(
        level if name in SPEAKING else f"{SHORT.get(name, name)}={level}"
        for name, level in zip(names, levels, strict=True)
    )


def name_of(table: AblationTable, row: Key, col: Key) -> str:
    """A cell as a person names it, the same wherever it is spoken of: `dpo, K=2`."""
    return ", ".join(parts_of(table, row, col)) or "all runs"


def baseline_of(table: AblationTable) -> str:
    """The baseline as a cell is named; as a row is where every column has its own.

    What was typed where the table holds no run of it.
    """
    cells = dict.fromkeys((e.row, e.col) for e in table.entries.values() if e.is_baseline)
    rows = dict.fromkeys(row for row, _ in cells)
    if len(cells) == 1:
        return name_of(table, *next(iter(cells)))
    if len(rows) == 1:
        return ", ".join(parts(table.row_names, next(iter(rows))))
    return str(table.question.baseline)


def study_notes(table: AblationTable, notes: Sequence[SweepNote]) -> list[str]:
    """What the table's sweep says of its arms, which are called as the table calls them."""
    told = []
    for note in notes:
        mine = table.runs.loc[table.runs["id"].isin(note.runs), "arm"]
        cells = dict.fromkeys(name_of(table, *arm) for arm in mine)
        told.append(f"{'; '.join(cells) or note.arm}: {note.told}")
    return list(dict.fromkeys(told))


def title(metric: str) -> str:
    """A metric's heading: what, on which split, in which unit."""
    item = describe(metric)
    split = metric.partition("/")[2]
    return ", ".join(part for part in (item.title, split, item.unit) if part)


def number(value: float, metric: str, sign: bool = False) -> str:
    """A value in the metric's shown unit."""
    item = describe(metric)
    return fixed(item.scale * value, item.digits, sign)


def glued(text: str) -> str:
    """Text whose numbers stay beside their signs and units wherever its lines break."""
    return _BESIDE.sub("\u00a0", text)


def caption(table: AblationTable) -> str:
    """Seeds, prompts, interval, correction, margin, seed scope and judge, in sentences."""
    runs = table.runs
    seeds = [len(entry.seeds) for entry in table.entries.values() if entry.runs]
    count = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    scopes = list(dict.fromkeys(runs["config.seed.scope"])) if "config.seed.scope" in runs else []
    scope = {
        ("all",): ", each of which redraws SFT, samples, labels and policy",
        ("policy",): ", which redraw the policy's training only (SFT and samples are shared)",
    }.get(tuple(scopes), "")
    told = [f"Mean ± 95 % t-interval over {count} seeds per cell{scope}."]
    if max(seeds) == 1:
        told = ["One seed per cell: no interval, and nothing can be compared."]
    prompts = _prompts(table)
    judges = runs.get("config.judge.name", pd.Series(dtype=str)).dropna().unique()
    if table.matched_kl is not None:
        told.append(
            f"Judge reward at KL {table.matched_kl:.2f} nats, read off the curve from the SFT "
            "policy through each cell's own runs, linear in the root of KL between known points"
            + (f" (which differ in {', '.join(table.along)})." if table.along else ".")
        )
    if len(judges):
        told.append(f"Judge: {', '.join(judges)}; {prompts}.")
    if len(table.comparisons):
        told.append(_test_told(table))
        if any(e.tuned is not None and e.tuned.trials > 1 for e in table.filled):
            told.append("Tests compare the chosen trials: other draws of trials are not in them.")
    if any(entry.best for entry in table.entries.values()):
        told.append(
            "Bold: the cells of a column among which the best one is, with 95 % confidence "
            "(multiple comparisons with the best)."
        )
    return " ".join(told)


def _prompts(table: AblationTable) -> str:
    told = []
    for metric in table.metrics:
        counts = table.runs.get(f"{metric}/n", pd.Series(dtype=float)).dropna()
        if len(counts):
            low, high = int(counts.min()), int(counts.max())
            split = metric.partition("/")[2]
            told.append(f"{low if low == high else f'{low} to {high}'} {split} prompts")
    return ", ".join(dict.fromkeys(told)) or "no prompts"


def _test_told(table: AblationTable) -> str:
    made = table.comparisons["p"].notna()
    df = sorted({int(value) for value in table.comparisons.loc[made, "df"]})
    if not df:
        return "Differences are not tested: no cell has a spread between seeds."
    baseline = baseline_of(table)
    pooled = "the table's cells" if table.repeated.pooled else "the cells of a column"
    told = (
        f"Differences to {baseline} from run means blocked by seed, variance pooled over {pooled} "
        f"({' and '.join(str(value) for value in df)} degrees of freedom); * p ≤ 0.05 after Holm's "
        f"correction over {int(made.sum())} comparisons; their intervals hold simultaneously."
    )
    if table.question.margin is not None:
        first = table.metrics[0]
        told += f" ≈ no difference of more than {number(table.question.margin, first)}"
        if len(table.metrics) > 1:
            told += f" in {title(first)}"
        told += " (two one-sided tests, Holm)."
        if table.margin_share is not None:
            told += (
                f" That margin, {100 * table.margin_share:g} % of the best offline gain over SFT, "
                "was read off these runs after the fact; one fixed beforehand is better."
            )
    return told
