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


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Three objectives, reported by the best and the last checkpoint; ipo's best are its last."""
    root = tmp_path_factory.mktemp("checkpoints") / "store"
    for number, name in enumerate(("dpo", "ipo", "kto")):
        for seed in range(4):
            for which, drawn in (("valid", 0), ("last", 0 if name == "ipo" else 50)):
                put(
                    root, answers(5 + 0.2 * number, 100 * number + drawn + seed),
                    objective=name, seed=seed, training__select_checkpoint=which,
                    policy=f"{name}-{seed}",
                )  # fmt: skip
    return load_study(root).frame


def by_checkpoint(frame: pd.DataFrame, **question: object) -> AblationTable:
    asked = Question(
        rows=("objective",),
        cols=("training.select_checkpoint",),
        **question,  # type: ignore[arg-type]
    )
    return build(frame, frame.iloc[:0], asked)


def test_checkpoints_of_one_policy_in_two_columns_make_two_fits(checkpoints: pd.DataFrame) -> None:
    both = by_checkpoint(checkpoints, baseline="dpo")
    assert not both.repeated.pooled
    assert both.repeated.shared == []
    for which in ("valid", "last"):
        column = checkpoints[checkpoints["config.training.select_checkpoint"] == which]
        alone = by_checkpoint(column, baseline="dpo")
        for name in ("ipo", "kto"):
            cell = ((name,), (which,), "reward/test")
            got, want = both.entries[cell].comparison, alone.entries[cell].comparison
            assert got is not None
            assert want is not None
            # the correction alone knows of the other column
            for number in ("difference", "se", "df", "p"):
                assert got[number] == pytest.approx(want[number])
    # three arms of four seeds, each column by itself
    assert set(both.comparisons["df"]) == {6}


def test_a_baseline_across_columns_leaves_one_fit_and_a_note(checkpoints: pd.DataFrame) -> None:
    baseline = "objective=dpo,training.select_checkpoint=last"
    table = by_checkpoint(checkpoints, baseline=baseline)
    assert table.repeated.pooled
    notes = "\n".join(table.notes)
    assert "different checkpoints of the same policies" in notes
    assert "kto, checkpoint=valid and kto, checkpoint=last" in notes
    # ipo's are the same checkpoints: one sample, tested once
    assert "ipo, checkpoint=valid = ipo, checkpoint=last" in notes
    assert len(table.comparisons) == 4


def test_a_baseline_that_lacks_a_column_leaves_the_others_compared(runs: pd.DataFrame) -> None:
    lost = (runs["objective"] == "dpo") & (runs["num_responses"] == 4)
    lost &= runs["config.match"] == "responses"
    table = made(runs[~lost], baseline="dpo 4")
    told = "\n".join(table.notes)
    assert "not compared, because the baseline has no finished run there" in told
    cell = table.entries[("ipo", "4"), ("prompts",), "reward/test"]
    assert cell.comparison is not None
    assert table.entries[("ipo", "4"), ("responses",), "reward/test"].comparison is None


def test_a_run_in_two_columns_is_paired_with_each_column_s_baseline(runs: pd.DataFrame) -> None:
    metric = "win_rate_baseline/test"
    table = made(runs, baseline="dpo 4", metrics=(metric,))
    for match in ("prompts", "responses"):
        column = runs[runs["config.match"] == match]
        alone = made(column, baseline="dpo 4", metrics=(metric,))
        for row in (("dpo", "2"), ("ipo", "2"), ("ipo", "4")):
            cell = (row, (match,), metric)
            assert table.entries[cell].mean == pytest.approx(alone.entries[cell].mean)
    pairs = [
        [table.entries[(name, "2"), (match,), metric].mean for match in ("prompts", "responses")]
        for name in ("dpo", "ipo")
    ]
    assert any(first != second for first, second in pairs)


def test_a_baseline_may_be_named_by_what_its_twins_share(runs: pd.DataFrame) -> None:
    table = made(runs, baseline="objective=dpo,num_responses=2")
    assert len(table.comparisons) == 5
    # the second of the twins is the baseline too, and lacks none
    assert "the baseline has no finished run" not in "\n".join(table.notes)


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
    assert "same results" not in "\n".join(table.notes)
    assert all(arm == first for arm, first in table.twins.items())
