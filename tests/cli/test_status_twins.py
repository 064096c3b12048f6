"""`ablate status` where several runs of a sweep have one name."""

from pathlib import Path

import pytest

from ablate.cli.run import expand_words
from ablate.cli.status import main
from ablate.errors import StoreError
from ablate.launch.sweep import freeze, prepare
from smallrun import SMALL


def lines(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[list[str]]:
    """The lines of the runs of a sweep that nobody has begun: what follows their ids."""
    store = tmp_path / "store"
    store.mkdir(exist_ok=True)
    sweep = prepare(expand_words([*SMALL, f"results_dir={store}", "-m", *words]))
    freeze(sweep, ["test"], "local", {"workers": 1, "max_restarts": 0})
    assert main([f"results_dir={store}"]) == 1
    told = capsys.readouterr().out.splitlines()
    return [line.split()[2:] for line in told if line.startswith("missing")]


def sweep_file(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "own" / "sweep").mkdir(parents=True)
    (tmp_path / "own" / "sweep" / "mine.yaml").write_text(text)
    return ["+sweep=mine", "--config-dir", str(tmp_path / "own")]


def test_twins_of_two_matches_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sweep_file(
        tmp_path,
        "# K, by prompts and by responses.\narms:\n  - objective: [dpo]\n    "
        "num_responses: [2, 4]\nseeds: [0]\nmatch: [prompts, responses]\n",
    )
    two, *four = lines(tmp_path, capsys, *words)
    assert two == ["dpo", "k=2", "gold", "tiny", "lists", "seed=0"]
    assert [line[:6] for line in four] == [["dpo", "k=4", "gold", "tiny", "lists", "seed=0"]] * 2
    assert {" ".join(line[6:]) for line in four} == {"match=prompts", "match=responses"}


def test_twins_of_a_setting_are_told_apart_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = lines(tmp_path, capsys, "objective=dpo", "objective.beta=0.1,0.25", "seed=0,1")
    assert (
        sorted(line[6:] for line in found)
        == [["objective.beta=0.1"]] * 2 + [["objective.beta=0.25"]] * 2
    )


def test_twins_need_as_many_settings_as_tell_them_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = lines(
        tmp_path, capsys, "objective=dpo", "objective.beta=0.1,0.2", "training.lr=1e-4,2e-4",
        "training.epochs=1,2", "training.weight_decay=0,0.1", "evaluation=standard",
    )  # fmt: skip
    told = [" ".join(line[6:]) for line in found]
    assert len(told) == len(set(told)) == 16


def test_trials_of_a_tuned_arm_and_the_runs_that_wait_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sweep_file(
        tmp_path,
        "# Tuned.\narms:\n  - objective: [dpo]\n    num_responses: [2, 4]\nmatch: [prompts, "
        "responses]\nseeds: [5]\ntune: {trials: 2}\n",
    )
    found = [" ".join(line) for line in lines(tmp_path, capsys, *words)]
    assert len(found) == len(set(found)) == 9
    assert sum("match=responses" in line and "objective.beta=" in line for line in found) == 2
    assert sum("match=responses" in line and "seed=5" in line for line in found) == 1


def test_a_sweep_is_found_by_the_name_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = ""
    for objective in ("dpo", "ipo"):
        words = [*SMALL, f"results_dir={tmp_path}", "-m", f"objective={objective}", "seed=0,1"]
        sweep = prepare(expand_words(words))
        freeze(sweep, ["+sweep=mine"], "local", {"workers": 1, "max_restarts": 0})
        newest = sweep.name
    assert main(["mine", f"results_dir={tmp_path}"]) == 1
    assert capsys.readouterr().out.startswith(f"sweep {newest} (mine): 2 runs: 2 missing")
    assert main([newest[:5], f"results_dir={tmp_path}"]) == 1
    with pytest.raises(StoreError, match="Did you mean 'mine'"):
        main(["mien", f"results_dir={tmp_path}"])
