"""What a job on a node does with its pieces; no scheduler is needed to work on them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ablate.launch import failed
from ablate.launch.jobs import jobs_of
from ablate.launch.sweep import Sweep
from ablate.store import records
from sweeps import stage_claim, striking, sweep_of

CODE = (
    "import json, sys; from ablate.launch import node\n"
    "folder, root, pieces = json.loads(sys.argv[1])\n"
    "print(node.run(folder, root, pieces, 'a job', 0))"
)


def work_on(sweep: Sweep, pieces: list[Any]) -> subprocess.CompletedProcess[str]:
    """The job that has these pieces, in a process of its own as on a node."""
    words = json.dumps([str(sweep.folder), str(sweep.layout.root), pieces])
    command = [sys.executable, "-c", CODE, words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def pieces_of(sweep: Sweep, kind: str) -> list[Any]:
    return [
        (str(job.frozen), job.stage, job.log_name) for job in jobs_of(sweep)[0] if job.kind == kind
    ]


def test_a_stage_whose_process_is_killed_on_a_node_is_tried_once_more(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=dpo"])
    (piece,) = pieces_of(sweep, "sft")
    with striking(stage_claim(sweep, "sft"), times=2) as struck:
        done = work_on(sweep, [piece])
    assert len(struck) == 2
    assert done.returncode == 1
    note = failed.find(sweep.folder, piece[1])
    assert note is not None
    assert "SIGKILL" in note["reason"]
    # another job for the same stage: one death is not its end
    failed.clear(sweep.folder)
    with striking(stage_claim(sweep, "sft")) as struck:
        done = work_on(sweep, [piece])
    assert len(struck) == 1
    assert done.stdout.strip() == "done", done.stderr
    assert failed.find(sweep.folder, piece[1]) is None


def test_a_run_killed_in_a_job_of_several_costs_that_run(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=dpo", "training.epochs=2000"], ["objective=ipo"])
    pieces = pieces_of(sweep, "run")
    with striking(stage_claim(sweep, "policy"), after=0.5):
        done = work_on(sweep, pieces)
    assert "1 of 2 pieces of a job failed" in done.stderr
    (failure,) = records.failures(sweep.layout)
    assert "SIGKILL" in failure.data["reason"]
    assert [r.data["config"]["objective"]["name"] for r in records.records(sweep.layout)] == ["ipo"]


def test_a_run_that_fails_on_a_node_before_its_attempt_is_told(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=dpo", "runtime.min_free_mb=1000000000"])
    done = work_on(sweep, pieces_of(sweep, "run"))
    assert done.returncode == 1
    (failure,) = records.failures(sweep.layout)
    assert "runtime.min_free_mb" in failure.data["reason"]
