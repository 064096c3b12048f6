"""Processes of a local sweep that die, are interrupted or err: what it costs, and what is told."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from sweeps import go, stage_claim, striking, sweep_of

from ablate.store import crash, records
from ablate.store.layout import Layout
from smallrun import SMALL

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
