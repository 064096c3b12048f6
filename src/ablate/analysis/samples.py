"""Answers to read: a few prompts with what every arm said to them."""

from dataclasses import dataclass

import pandas as pd

from ablate.analysis.caption import name_of
from ablate.analysis.table import AblationTable
from ablate.config.identity import digest
from ablate.results.tables import EVAL, read_tables

COLUMNS = ["prompt_id", "sample", "prompt", "response", "judge_score", "baseline_score",
           "baseline_response"]  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One prompt and the answers of all arms to it.

    why: how it came to be shown. answers: (arm, judge score, text), the SFT policy's first.
    """

    why: str
    prompt: str
    answers: list[tuple[str, float, str]]


def samples(table: AblationTable, split: str, drawn: int = 3, apart: int = 3) -> list[Sample]:
    """Prompts drawn blindly, and those on which the arms differ most.

    Every arm is shown by its run of the seed that most arms have. The blind draw goes by a hash of
    the prompt's id, so that nobody could have picked it.
    """
    seeds = table.runs.groupby("seed")["arm"].nunique()
    if seeds.empty:
        return []
    seed = seeds.idxmax()
    runs = table.runs[table.runs["seed"] == seed].drop_duplicates("arm")
    rows = read_tables(runs, EVAL, COLUMNS, split)
    if rows.empty:
        return []
    arms = dict(zip(runs["id"], runs["arm"], strict=True))
    rows = rows[rows["sample"] == 0]
    scores = rows.pivot_table(index="prompt_id", columns="id", values="judge_score").dropna()
    if scores.empty:
        return []
    spread = scores.std(axis=1, ddof=0).sort_values(ascending=False, kind="stable")
    blind = sorted(spread.index, key=lambda name: digest(["blind", str(name)]))[:drawn]
    far = [name for name in spread.index if name not in blind][:apart]
    order = {(row, col): place for place, (row, col) in enumerate(
        (row, col) for row in table.rows for col in table.cols)}  # fmt: skip
    result = []
    for why, names in (("drawn blindly", blind), ("where the arms differ most", far)):
        for name in names:
            mine = rows[rows["prompt_id"] == name].copy()
            mine["place"] = [order[arms[identity]] for identity in mine["id"]]
            mine = mine.sort_values("place")
            first = mine.iloc[0]
            answers = [("SFT", float(first["baseline_score"]), str(first["baseline_response"]))]
            answers += [
                (name_of(table, *arms[row.id]), float(row.judge_score), str(row.response))
                for row in mine.itertuples()
            ]
            result.append(Sample(why, str(first["prompt"]), answers))
    return result


def shown_seed(table: AblationTable) -> int:
    """The seed whose runs `samples` shows."""
    return int(table.runs.groupby("seed")["arm"].nunique().idxmax())


def score_range(shown: list[Sample]) -> tuple[float, float]:
    """Lowest and highest score among samples, for bars that compare."""
    values = pd.Series([score for sample in shown for _, score, _ in sample.answers])
    return min(0.0, float(values.min())), float(values.max())
