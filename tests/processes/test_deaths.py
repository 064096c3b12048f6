"""Processes of a local sweep that die, are interrupted or err: what it costs, and what is told."""

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from ablate.launch.status import sweep_status
from ablate.store import crash, files, records
from ablate.store.layout import Layout
from smallrun import SMALL
from sweeps import go, stage_claim, striking, sweep_of

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_a_shared_stage_whose_process_is_killed_is_tried_once_more(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=dpo"], ["objective=ipo"])
    with striking(stage_claim(sweep, "sft")) as struck:
        outcomes = go(sweep)
    assert len(struck) == 1
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "dpo": "done", "ipo": "done",
    }  # fmt: skip
    assert list(records.failures(sweep.layout)) == []


def test_a_shared_stage_that_is_killed_twice_is_the_cause_of_its_runs(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=dpo"], ["objective=ipo"])
    with striking(stage_claim(sweep, "sft"), times=5) as struck:
        outcomes = go(sweep)
    assert len(struck) == 2
    assert {outcome.status for outcome in outcomes.values()} == {"failed"}
    (reason,) = {str(outcome.reason) for outcome in outcomes.values()}
    assert "SFT" in reason
    assert "SIGKILL (out of memory?)" in reason
    assert [f.data["reason"] for f in records.failures(sweep.layout)] == [reason] * 2


def test_one_interrupted_process_costs_one_run(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=simpo", "training.epochs=2000"], ["objective=dpo"])
    with striking(stage_claim(sweep, "policy"), after=0.5, with_=signal.SIGINT) as struck:
        outcomes = go(sweep)
    assert len(struck) == 1
    assert outcomes["dpo"].status == "done"
    assert outcomes["simpo"].status == "failed"
    assert "interrupted" in str(outcomes["simpo"].reason)


def test_what_was_published_counts_however_its_process_ended(
    ablate: Command, tmp_path: Path
) -> None:
    """Two processes die right after they published, a stage and a run: nothing is lost by it."""
    armed, root = tmp_path / "armed", tmp_path / "store"
    crash.arm(armed, "stage-published", "record-published")
    words = [*SMALL, "objective=dpo,ipo", f"results_dir={root}", "-m"]
    done = ablate(*words, env={crash.VARIABLE: str(armed)})
    assert list(armed.iterdir()) == [], "both died"
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout.replace("0 failed", "")
    found = list(records.records(Layout(root)))
    assert [record.revision for record in found] == [1, 1]
    assert ablate("status", f"results_dir={root}").returncode == 0


def test_a_mirror_that_cannot_be_ended_costs_no_run(tmp_path: Path) -> None:
    arm = ["objective=dpo"]
    go(sweep_of(tmp_path, arm))
    layout = Layout(tmp_path)
    shutil.rmtree(layout.runs)
    layout.wandb.write_text("in the way, and no step is trained that would meet it")
    sweep = sweep_of(tmp_path, [*arm, "tracker=wandb_offline"])
    assert go(sweep)["dpo"].status == "done"
    assert [s.state for s in sweep_status(sweep.folder)] == ["done"]


def test_what_nobody_expected_is_told_of_its_run(ablate: Command, tmp_path: Path) -> None:
    go(sweep_of(tmp_path, ["objective=dpo"]))
    layout = Layout(tmp_path)
    shutil.rmtree(layout.runs)
    # the run's own code will miss what a stage always says
    (policy,) = layout.stages.glob("policy/*")
    result = files.read_json(policy / "result.json")
    del result["tokens"]
    files.write_json(policy / "result.json", result)
    (policy / files.MANIFEST).unlink()
    files.write_manifest(policy)
    sweep = sweep_of(tmp_path, ["objective=dpo"])
    outcome = go(sweep)["dpo"]
    assert (outcome.status, outcome.reason) == ("failed", "KeyError: 'tokens'")
    (failure,) = records.failures(layout)
    assert failure.data["reason"] == outcome.reason
    assert failure.data["name"] == outcome.name
    told = ablate("status", f"results_dir={tmp_path}")
    assert told.returncode == 1
    assert "1 failed" in told.stdout
    assert "KeyError: 'tokens'" in told.stdout
    assert "Traceback" in ablate("logs", outcome.identity[:8], f"results_dir={tmp_path}").stdout


def test_a_run_that_fails_before_its_attempt_is_told(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=dpo", "runtime.min_free_mb=1000000000"])
    outcome = go(sweep)["dpo"]
    assert outcome.status == "failed"
    (status,) = sweep_status(sweep.folder)
    assert (status.state, status.reason, status.log) == ("failed", outcome.reason, outcome.log)
    assert "runtime.min_free_mb" in str(status.reason)
    # once more: the failure before is no word about this try
    go(sweep)
    assert len(list(sweep.layout.attempts.glob("*/*/failure.json"))) == 2


def test_runs_that_nobody_works_on_are_told_by_the_exit_code(
    ablate: Command, tmp_path: Path
) -> None:
    sweep_of(tmp_path, ["objective=dpo"])
    told = ablate("status", f"results_dir={tmp_path}")
    assert "1 missing" in told.stdout
    assert "retry" in told.stdout
    assert told.returncode == 1
