"""`ablate plan`: what would run, what is there, what would be refused; and nothing is written."""

import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from smallrun import SMALL

Command = Callable[..., CompletedProcess[str]]


def numbers(printed: str, title: str) -> list[str]:
    """The counts of a line of the plan."""
    line = next(line for line in printed.splitlines() if line.startswith(title))
    return line[len(title) :].split()


def test_a_plan_counts_what_is_shared_and_writes_nothing(ablate: Command, tmp_path: Path) -> None:
    words = ["objective=dpo,simpo", "num_responses=2,4", "seed=0,1", *SMALL]
    done = ablate("plan", *words, "-m")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cwd").iterdir()) == []
    assert "8 arms, 8 distinct runs, 0 in the store" in done.stdout
    assert numbers(done.stdout, "SFT policy")[:2] == ["2", "0"]
    # for training, and of test prompts for labelled pairs
    assert numbers(done.stdout, "response pool")[:2] == ["4", "0"]
    assert numbers(done.stdout, "policy")[:2] == ["8", "0"]
    assert "assumed" in done.stdout
    ran = ablate("objective=dpo", "num_responses=2", *SMALL)
    assert ran.returncode == 0, ran.stderr
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cwd").rglob("*")}
    again = ablate("plan", *words, "-m")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cwd").rglob("*")} == before
    assert "8 distinct runs, 1 in the store" in again.stdout
    assert numbers(again.stdout, "SFT policy")[:2] == ["2", "1"]
    assert numbers(again.stdout, "policy")[:2] == ["8", "1"]
    assert "speeds of 1 run in the store" in again.stdout


def test_what_would_be_refused_is_told_once_and_the_rest_is_planned(ablate: Command) -> None:
    done = ablate("plan", "objective=dpo,simpo,rpo_bwd", "num_responses=1,2", "-m", *SMALL)
    assert done.returncode == 1
    assert "6 arms, 3 distinct runs" in done.stdout
    assert done.stdout.count("refused") == 3
    assert "needs at least 2 per prompt" in done.stdout


def test_a_tuned_sweep_is_planned_with_both_its_phases(ablate: Command) -> None:
    done = ablate("plan", "+sweep=objectives", "tune.trials=2", "seed=0,1", "-m", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "11 arms with 2 trials each: 22 distinct runs, 0 in the store" in done.stdout
    assert "22 runs of fresh seeds" in done.stdout
    assert numbers(done.stdout, "policy")[0] == "44"
    assert "objective.beta" in done.stdout


def test_the_largest_run_of_each_base_model_is_told_beside_the_whole(ablate: Command) -> None:
    """Every run costs the same here, and shares nothing with the others."""
    models = r"(\w+) ([\d.]+) device-hours, ([\d.]+) GiB in each training process"

    def told(*words: str) -> tuple[float, dict[str, tuple[float, float]]]:
        done = ablate("plan", *words)
        assert done.returncode == 0, done.stderr
        whole = re.search(r"^([\d.]+) device-hours; about", done.stdout, re.M)
        (line,) = [x for x in done.stdout.splitlines() if x.startswith("a run by itself, at most:")]
        assert whole is not None
        return float(whole[1]), {
            m[1]: (float(m[2]), float(m[3])) for m in re.finditer(models, line)
        }

    alone, one = told("base_model=small")
    assert one["small"][0] == pytest.approx(alone, abs=0.0051)
    both, two = told("base_model=small,tiny", "training.epochs=1", "seed=0,1", "-m")
    assert two["small"] == one["small"], "of one run, however many there are"
    assert both == pytest.approx(2 * (two["small"][0] + two["tiny"][0]), rel=0.05)
    assert two["tiny"][0] < two["small"][0]
    assert two["tiny"][1] < two["small"][1]


def test_several_runs_need_the_flag(ablate: Command) -> None:
    done = ablate("plan", "objective=dpo,simpo")
    assert done.returncode == 2
    assert "add -m" in done.stderr
    assert ablate("plan", *SMALL).returncode == 0


def test_headings_of_a_plan_are_whole_on_a_narrow_terminal(ablate: Command) -> None:
    done = ablate("plan", "objective=dpo", *SMALL, env={"COLUMNS": "64"})
    assert done.returncode == 0, done.stderr
    assert "…" not in done.stdout
    top = done.stdout.partition("SFT policy")[0].split()
    wanted = "needed in store shared by responses tokens device time"
    assert {"stage", *wanted.split()} <= set(top)
