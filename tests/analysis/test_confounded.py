"""What differs between cells beside rows and columns is told; what a level means is not."""

from pathlib import Path

import pytest

from ablate.analysis import Question, at_equal_kl, build
from ablate.analysis.confounded import confounded
from ablate.results import load_study
from madestore import answers, put

TOLD = "cells differ in settings that are neither rows nor columns"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def lines(root: Path, rows: tuple[str, ...], cols: tuple[str, ...] = (), **more: object) -> str:
    study = load_study(root)
    made = build(study.frame, study.lacking, Question(rows=rows, cols=cols, **more))  # type: ignore[arg-type]
    return "\n".join(made.notes)


def test_a_setting_that_goes_with_a_factor_is_told_with_its_levels(root: Path) -> None:
    for name, epochs in (("dpo", 1.0), ("ipo", 1.0), ("rpo_bwd", 3.0)):
        for seed in (0, 1):
            put(root, answers(5, seed), objective=name, training__epochs=epochs, seed=seed)
    told = lines(root, ("objective",))
    assert TOLD in told
    assert "  training.epochs: 1 for objective=dpo, ipo; 3 for objective=rpo_bwd" in told
    assert TOLD not in lines(root, ("objective",), ("training.epochs",))


def test_a_setting_of_single_cells_is_told_with_their_number(root: Path) -> None:
    for name in ("dpo", "ipo"):
        for k in (2, 4):
            put(
                root, answers(5, k), objective=name, num_responses=k, seed=0,
                collection="online" if (name, k) == ("ipo", 4) else "offline",
            )  # fmt: skip
    told = lines(root, ("objective",), ("num_responses",))
    assert "  collection: offline (3 of 4 cells); online (1 of 4 cells)" in told


def test_what_a_level_means_is_no_confounder_but_two_values_of_it_are(root: Path) -> None:
    for name, beta in (("dpo", 0.1), ("ipo", 0.5)):
        for k in (2, 4):
            put(root, answers(5, k), objective=name, num_responses=k, seed=0, objective__beta=beta)
    assert TOLD not in lines(root, ("objective",), ("num_responses",))
    put(root, answers(5, 8), objective="dpo", num_responses=8, seed=0, objective__beta=0.3)
    told = lines(root, ("objective",), ("num_responses",))
    assert "  objective.beta: 0.1 (2 of 5 cells); 0.3 (1 of 5 cells); 0.5 (2 of 5 cells)" in told


def test_tuned_settings_are_told_as_such(root: Path) -> None:
    for name, best in (("dpo", 0.1), ("ipo", 0.3)):
        for beta in (0.1, 0.2, 0.3):
            made = answers(6 - abs(beta - best), 50, spread=0.01)
            put(root, made, objective=name, objective__beta=beta, training__lr=beta, seed=1000)
        put(root, answers(5, 0), objective=name, objective__beta=best, training__lr=best, seed=0)
    told = lines(root, ("objective",), choose_by="reward/valid")
    assert TOLD not in told
    assert "dpo: best of 3 trials, objective.beta=0.1↓ training.lr=0.1↓" in told
    assert "ipo: best of 3 trials, objective.beta=0.3↑ training.lr=0.3↑" in told


def test_an_optimum_inside_of_what_was_tried_has_no_mark(root: Path) -> None:
    for beta in (0.1, 0.2, 0.3):
        made = answers(6 - abs(beta - 0.2), 50, spread=0.01)
        put(root, made, objective="dpo", objective__beta=beta, seed=1000)
    put(root, answers(5, 0), objective="dpo", objective__beta=0.2, seed=0)
    told = lines(root, ("objective",), choose_by="reward/valid")
    assert "best of 3 trials, objective.beta=0.2 (" in told
    assert "may lie beyond" not in told


def test_what_a_match_scales_is_told_only_where_the_match_is_no_factor(root: Path) -> None:
    for k, batch in ((2, 64), (4, 32)):
        put(root, answers(5, k), num_responses=k, training__batch_size=batch, seed=0)
    frame = load_study(root).frame.assign(**{"config.match": "responses"})
    told = "training.batch_size: 32 for num_responses=4; 64 for num_responses=2"
    assert confounded(frame, ["num_responses"]) == [told]
    assert confounded(frame, ["num_responses", "config.match"]) == []


def test_tuned_settings_are_no_confounders_at_equal_kl_either(root: Path) -> None:
    for name, best in (("dpo", 0.1), ("ipo", 0.3)):
        for beta in (0.1, 0.2, 0.3):
            made = answers(6 - abs(beta - best), 50, spread=0.01)
            put(root, made, objective=name, objective__beta=beta, training__lr=beta, seed=1000)
        for seed in (0, 1):
            made = answers(5, seed)
            put(root, made, objective=name, objective__beta=best, training__lr=best, seed=seed)
    frame = load_study(root).frame
    asked = Question(rows=("objective",), baseline="dpo", choose_by="reward/valid")
    equal = at_equal_kl(build(frame, frame.iloc[:0], asked), "test")
    assert equal.matched_kl is not None
    assert TOLD not in "\n".join(equal.notes)


def test_marks_at_an_end_need_three_values_and_numbers(root: Path) -> None:
    for beta in (0.1, 0.2):
        for shuffle in (True, False):
            made = answers(6 - beta + shuffle, 50, spread=0.01)
            put(
                root, made, objective="dpo", objective__beta=beta, training__shuffle=shuffle,
                seed=1000,
            )  # fmt: skip
    made = answers(5, 0)
    put(root, made, objective="dpo", objective__beta=0.1, training__shuffle=True, seed=0)
    told = lines(root, ("objective",), choose_by="reward/valid")
    assert "best of 4 trials" in told
    assert "↓" not in told
    assert "↑" not in told


def test_a_level_that_is_the_row_is_not_told_by_its_own_settings(root: Path) -> None:
    for name, epochs in (("default", 1.0), ("long", 3.0)):
        for seed in (0, 1):
            put(root, answers(5, seed), training=name, training__epochs=epochs, seed=seed)
    assert TOLD not in lines(root, ("training",))
