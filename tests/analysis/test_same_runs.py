"""Runs that stand in several cells of a table are one sample: they are tested once."""

import pandas as pd
import pytest

from ablate.analysis import AblationTable, Question, build
from ablate.results import load_study
from madestore import answers, put


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Two objectives; K = 2 stands for both matches, K = 4 was run for each."""
    root = tmp_path_factory.mktemp("twins") / "store"
    for number, name in enumerate(("dpo", "ipo")):
        for batch, k in ((64, 2), (64, 4), (32, 4)):
            for seed in range(3):
                made = answers(5 + 0.2 * k + 0.3 * number, 100 * number + batch + 10 * k + seed)
                put(
                    root, made, objective=name, num_responses=k, seed=seed,
                    training__batch_size=batch,
                )  # fmt: skip
    frame = load_study(root).frame
    match = frame["config.training.batch_size"].map({64: "prompts", 32: "responses"})
    frame = frame.assign(**{"config.match": match})
    twins = frame[frame["num_responses"] == 2].assign(**{"config.match": "responses"})
    return pd.concat([frame, twins], ignore_index=True)


def made(frame: pd.DataFrame, **question: object) -> AblationTable:
    asked = Question(rows=("objective", "num_responses"), cols=("match",), **question)  # type: ignore[arg-type]
    return build(frame, frame.iloc[:0], asked)


def test_twins_are_compared_as_they_are_without_their_second_name(runs: pd.DataFrame) -> None:
    table = made(runs, baseline="dpo 2")
    # five other cells of six, one of which stands twice
    assert len(table.comparisons) == 5
    assert "Holm's correction over 5 comparisons" in table.caption
    once = runs.drop_duplicates("id")
    alone = made(once, baseline="objective=dpo,num_responses=2")
    for cell in (("ipo", "2"), ("dpo", "4"), ("ipo", "4")):
        for col in (("prompts",), ("responses",)):
            if cell[1] == "2" and col == ("responses",):
                continue
            got = table.entries[cell, col, "reward/test"].comparison
            want = alone.entries[cell, col, "reward/test"].comparison
            assert got is not None
            assert want is not None
            for name in ("difference", "p_holm", "low", "df"):
                assert got[name] == pytest.approx(want[name])
    first, second = (
        table.entries[("ipo", "2"), (match,), "reward/test"] for match in ("prompts", "responses")
    )
    assert first.comparison is not None
    assert first.comparison == second.comparison
    assert first.best == second.best
    assert sum(table.distinct["id"].duplicated()) == 0


def test_the_shared_cells_are_named(runs: pd.DataFrame) -> None:
    notes = "\n".join(made(runs, baseline="dpo 2").notes)
    assert "dpo, K=2, match=prompts = dpo, K=2, match=responses" in notes
    assert "two names" not in notes


def test_a_table_without_shared_runs_has_no_such_note(runs: pd.DataFrame) -> None:
    table = made(runs.drop_duplicates("id"))
    assert "same runs" not in "\n".join(table.notes)
    assert all(arm == first for arm, first in table.twins.items())
