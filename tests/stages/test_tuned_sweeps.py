"""A sweep that tunes, as people run it: trials, a choice on valid, fresh seeds that report it."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest

from ablate.launch.status import sweep_status
from ablate.launch.tuning import settle
from ablate.results import load, load_study
from ablate.store.layout import Layout
from ablate.store.sweeps import read_sweep, sweeps
from smallrun import SMALL

FILE = """# Two arms.
arms:
  - objective: [dpo, rpo_sqloo]
    num_responses: [2, 4]
seeds: [0, 1]
match: [prompts, responses]
tune: {trials: 2, seeds: [1000], ranges: {training.lr: [1.0e-4, 3.0e-3]}}
analysis: {rows: [objective, num_responses], cols: match, baseline: dpo 2, margin: 0.1}
"""


Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, run_ablate: Command) -> tuple[Path, str]:
    """The working folder of the sweep, and what it printed."""
    cwd = tmp_path_factory.mktemp("study")
    (cwd / "conf" / "sweep").mkdir(parents=True)
    (cwd / "conf" / "sweep" / "mine.yaml").write_text(FILE)
    done = run_ablate(cwd, "+sweep=mine", "-cd", "conf", *SMALL, "-m")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd, done.stdout


def test_the_chosen_trial_is_the_best_on_valid_and_reports_with_fresh_seeds(
    study: tuple[Path, str],
) -> None:
    cwd, _ = study
    root = cwd / "results"
    runs = load(root).set_index("id")
    (folder,) = sweeps(Layout(root))
    sweep = read_sweep(folder)
    # K=2 is the smallest, so both matches ask for the same runs there
    assert len(sweep.contests) == 6
    assert len(sweep.trials) == 6 * 2
    for contest in sweep.contests:
        assert contest.choice is not None
        means = [runs.loc[trial.runs, "reward/valid"].mean() for trial in contest.trials]
        assert contest.choice.values == pytest.approx(means)
        assert contest.choice.trial == means.index(max(means))
        reported = runs.loc[list(contest.choice.runs.values())]
        assert sorted(reported["seed"]) == [0, 1]
        for setting, value in contest.choice.settings.items():
            assert set(reported[f"config.{setting}"]) == {value}
        told = set(runs.loc[contest.runs, "seed"])
        assert told == {1000}
    small = [c for c in sweep.contests if len(c.labels) == 2]
    assert len(small) == 2, "dpo and rpo_sqloo at K=2 stand for both matches"


def test_a_match_trains_on_as_many_responses(study: tuple[Path, str]) -> None:
    frame = load_study(study[0] / "results", "mine").reported
    dpo = frame[frame["objective"] == "rpo_sqloo"]
    tokens = dpo.groupby(["config.match", "num_responses"])["tokens_trained"].mean()
    assert tokens["prompts", 4] == pytest.approx(2 * tokens["prompts", 2], rel=0.2)
    assert tokens["responses", 4] == pytest.approx(tokens["responses", 2], rel=0.2)


def test_the_table_reports_fresh_seeds_and_says_how_they_were_chosen(
    study: tuple[Path, str], run_ablate: Command
) -> None:
    cwd, printed = study
    assert "best of 2 trials" in " ".join(printed.split())
    assert "the optimum may lie beyond" not in printed, "of two trials each is an end"
    done = run_ablate(cwd, "table", "--sweep", "mine", "--format", "csv")
    assert done.returncode == 0, done.stderr
    runs = load_study(cwd / "results", "mine").reported
    shown = pd.read_csv(io.StringIO(done.stdout), comment="#")
    shown = shown[shown["metric"] == "reward/test"]
    keys = ["objective", "num_responses", "config.match"]
    means = runs.groupby(keys)["reward/test"].mean()
    assert len(shown) == len(means) == 8
    assert sorted(shown["mean"]) == pytest.approx(sorted(means), abs=1e-9)


def test_the_same_command_again_finds_everything(
    study: tuple[Path, str], run_ablate: Command
) -> None:
    cwd, _ = study
    before = {path.stat().st_mtime_ns for path in (cwd / "results").rglob("record.json")}
    plan = run_ablate(cwd, "plan", "+sweep=mine", "-cd", "conf", *SMALL, "-m")
    assert plan.returncode == 0, plan.stderr
    # the chosen trials' runs, not some that stand in for them
    folder = sweeps(Layout(cwd / "results"))[0]
    number = len(set(read_sweep(folder).chosen))
    assert f"{number} runs of fresh seeds, {number} in the store" in " ".join(plan.stdout.split())
    again = run_ablate(cwd, "+sweep=mine", "-cd", "conf", *SMALL, "-m")
    assert again.returncode == 0, again.stderr
    after = {path.stat().st_mtime_ns for path in (cwd / "results").rglob("record.json")}
    assert before == after


def test_a_trial_that_is_lost_is_told_and_one_that_returns_takes_part(
    study: tuple[Path, str], tmp_path: Path, run_ablate: Command
) -> None:
    shutil.copytree(study[0] / "results", tmp_path / "results")
    (folder,) = sweeps(Layout(tmp_path / "results"))
    contest = read_sweep(folder).contests[0]
    assert contest.choice is not None
    lost = contest.trials[contest.choice.trial].runs[0]
    shutil.rmtree(tmp_path / "results" / "runs" / lost)
    assert settle(folder) == []
    other = read_sweep(folder).contests[0].choice
    assert other is not None
    assert other.trial != contest.choice.trial
    assert other.values[contest.choice.trial] is None
    notes = " ".join(f"{n.arm}: {n.told}" for n in load_study(tmp_path / "results", "mine").notes)
    assert "chosen among 1 of 2 trials" in notes
    states = {s.identity: s.state for s in sweep_status(folder)}
    assert states[lost] == "missing"
    # the runs that the other trial would report are not there; they are told, not dropped
    assert {states[run] for run in other.runs.values()} == {"missing"}
    done = run_ablate(tmp_path, "retry")
    assert done.returncode == 0, done.stdout + done.stderr
    back = read_sweep(folder).contests[0].choice
    assert back is not None
    assert back.trial == contest.choice.trial
    assert back.runs == contest.choice.runs


def test_an_arm_without_a_finished_trial_is_missing_from_no_table(
    study: tuple[Path, str], tmp_path: Path
) -> None:
    shutil.copytree(study[0] / "results", tmp_path / "results")
    (folder,) = sweeps(Layout(tmp_path / "results"))
    contest = read_sweep(folder).contests[0]
    for run in contest.runs:
        shutil.rmtree(tmp_path / "results" / "runs" / run)
    (folder / "chosen" / f"{contest.key}.json").unlink()
    assert [c.key for c in settle(folder)] == [contest.key]
    awaited = [s for s in sweep_status(folder) if s.reason and "waits for the choice" in s.reason]
    assert [s.identity for s in awaited] == [contest.promise(0), contest.promise(1)]
    lacking = load_study(tmp_path / "results", "mine").lacking
    assert set(lacking["state"]) == {"missing"}
    assert {contest.promise(0), contest.promise(1)} <= set(lacking["id"])


def test_the_choice_is_plain_data(study: tuple[Path, str]) -> None:
    (folder,) = sweeps(Layout(study[0] / "results"))
    for path in (folder / "chosen").iterdir():
        assert set(json.loads(path.read_text())) == {
            "trial", "settings", "values", "runs", "names",
        }  # fmt: skip
