"""A scheduler that is silent for a while, or that takes no job back, costs nothing and is told."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablate import preemption
from ablate.cli import cancel, retry, status
from ablate.launch.hopeless import cancel_hopeless
from ablate.launch.status import RunStatus, sweep_status
from ablate.launch.sweep import Sweep
from ablate.store import files, records
from fakeslurm import FakeSlurm
from sweeps import sweep_of

JOB = """
import sys
from ablate.launch import node
folder, root, requeues, *runs = sys.argv[1:]
pieces = [(run, None, f"{number}.log") for number, run in enumerate(runs)]
node.run(folder, root, pieces, "job", int(requeues))
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", fake.path)
    return fake


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Two runs, submitted as jobs 100_0 and 100_1."""
    made = sweep_of(tmp_path / "store", ["objective=dpo"], ["objective=ipo"])
    jobs = {f"run-{run}": f"100_{number}" for number, run in enumerate(made.plans)}
    files.write_json(made.folder / "slurm" / "jobs.json", jobs)
    return made


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(sweep: Sweep, tmp_path: Path) -> Iterator[Start]:
    """Starts the job of both runs, and tells it that its time is nearly up."""
    started = []

    def job(restarts: int, requeues: int) -> subprocess.Popen[str]:
        runs = [str(sweep.frozen(run)) for run in sweep.plans]
        where = [str(sweep.folder), str(sweep.layout.root), str(requeues)]
        # no pipe: its fork server would keep it open for longer than the job lasts
        with open(tmp_path / "job.err", "w") as told:
            process = subprocess.Popen(
                [sys.executable, "-c", JOB, *where, *runs],
                env={**os.environ, "SLURM_JOB_ID": "100", "SLURM_RESTART_COUNT": str(restarts)},
                stderr=told, text=True,
            )  # fmt: skip
        started.append(process)
        while not listens(process.pid):
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR2)
        return process

    yield job
    for process in started:
        process.kill()


def listens(pid: int) -> bool:
    """Whether a job handles SIGUSR2, which it does not while it starts its fork server."""
    if not Path(f"/proc/{pid}/task/{pid}/children").read_text():
        return False
    text = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in text.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGUSR2 - 1) & 1)


def by_objective(sweep: Sweep) -> dict[str, RunStatus]:
    return {found.name.split()[0]: found for found in sweep_status(sweep.folder)}


def test_a_requeue_is_asked_for_until_the_controller_is_back(
    slurm: FakeSlurm, sweep: Sweep, start: Start, tmp_path: Path
) -> None:
    slurm.down(calls=2)
    job = start(restarts=0, requeues=3)
    assert job.wait(timeout=120) == preemption.EXIT_CODE
    told = (tmp_path / "job.err").read_text()
    assert slurm.calls("scontrol") == ["scontrol requeue 100"] * 3
    assert "queued again (1 of 3)" in told
    assert "asked again in 1 s" in told
    assert "asked again in 2 s" in told
    assert list(records.failures(sweep.layout)) == [], "no run has failed by that"
    slurm.queue("100_0|PENDING|BeginTime", "100_1|PENDING|BeginTime")
    assert {found.state for found in by_objective(sweep).values()} == {"queued"}


def test_a_job_that_is_ended_while_it_asks_leaves_word(
    slurm: FakeSlurm, sweep: Sweep, start: Start
) -> None:
    slurm.down()
    job = start(restarts=0, requeues=3)
    while not slurm.calls("scontrol"):
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == preemption.EXIT_CODE
    slurm.up()
    for found in by_objective(sweep).values():
        assert found.state == "failed"
        assert "could not be queued again: SLURM refuses `scontrol requeue 100`" in str(
            found.reason
        )


def test_a_job_that_may_not_be_queued_again_says_so_for_all_its_runs(
    slurm: FakeSlurm, sweep: Sweep, start: Start
) -> None:
    job = start(restarts=2, requeues=2)
    assert job.wait(timeout=120) == preemption.EXIT_CODE
    assert slurm.calls("scontrol") == []
    found = by_objective(sweep)
    assert {one.state for one in found.values()} == {"failed"}
    for one in found.values():
        assert "its time was up" in str(one.reason)
        assert "queued again 2 times" in str(one.reason)
        assert "max_num_timeout=2" in str(one.reason)


def test_status_falls_back_to_the_store_and_says_so(
    slurm: FakeSlurm, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = sweep.plans
    attempt = records.new_attempt(sweep.layout, first)
    records.write_failure(attempt, "dpo", "it broke", None)
    slurm.down()
    root = f"results_dir={sweep.layout.root}"
    assert status.main([root]) == 1
    told = capsys.readouterr().out
    assert "SLURM could not be asked, the store alone tells" in told
    assert "Unable to contact slurm controller" in told
    assert "2 runs: 1 failed, 1 unknown" in told
    assert "it broke" in told
    assert "job 100_1 was submitted, and SLURM cannot be asked" in told
    slurm.up()
    slurm.queue("100_1|RUNNING|None")
    status.main([root])
    told = capsys.readouterr().out
    assert "could not be asked" not in told
    assert "2 runs: 1 running, 1 failed" in told
    assert by_objective(sweep)["ipo"].identity == second
    # what would change the queue does nothing on a guess
    slurm.down()
    for command in (retry, cancel):
        with pytest.raises(Exception, match="Unable to contact slurm controller"):
            command.main([root])


def test_waiting_outlasts_a_controller_that_is_away(
    slurm: FakeSlurm, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from ablate.cli.slurm_sweep import wait

    def weather() -> None:
        slurm.until_asked()
        slurm.queue("100_0|RUNNING|None")
        slurm.up()
        slurm.until_asked()
        slurm.queue()

    slurm.down()
    change = threading.Thread(target=weather)
    change.start()
    outcomes = wait(Console(width=200), sweep, 0.2)
    change.join()
    told = capsys.readouterr().out
    assert told.count("asked again every 0.2 s") == 1
    assert "Unable to contact slurm controller" in told
    assert "1 running, 1 lost" in told
    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]
    assert told.index("asked again") < told.index("1 running") < told.index("2 lost")


@pytest.mark.parametrize(
    ("reason", "hopeless", "stuck"),
    [
        ("QOSMaxWallDurationPerJobLimit", True, True),
        ("QOSMaxCpuPerJobLimit", True, True),
        ("QOSMaxGRESPerJob", True, True),
        ("QOSMaxMemoryPerNode", True, True),
        ("QOSMinCpuNotSatisfied", True, True),
        ("AssocMaxWallDurationPerJobLimit", True, True),
        ("AssocMaxMemPerJob", True, True),
        ("PartitionTimeLimit", True, True),
        ("JobHoldMaxRequeue", True, True),
        ("launch failed requeued held", True, True),
        ("JobHeldAdmin", False, True),
        ("JobHeldUser", False, True),
        # others' jobs, or the user's own, end: then these start
        ("QOSMaxCpuPerUserLimit", False, False),
        ("QOSMaxJobsPerUserLimit", False, False),
        ("AssocMaxJobsLimit", False, False),
        ("AssocGrpCpuLimit", False, False),
        ("ReqNodeNotAvail, UnavailableNodes:a1", False, False),
        ("Priority", False, False),
    ],
)
def test_a_job_that_never_starts_is_cancelled_and_one_that_is_held_only_told(
    slurm: FakeSlurm, tmp_path: Path, reason: str, hopeless: bool, stuck: bool
) -> None:
    sweep = frozen_by_hand(tmp_path / "store")
    slurm.queue(f"100_0|PENDING|{reason}", "100_1|RUNNING|None")
    found = {one.name: one for one in sweep_status(sweep)}
    assert found["one"].state == ("stuck" if stuck else "queued")
    assert found["two"].state == "running"
    assert ("scontrol release 100_0" in str(found["one"].reason)) == (stuck and not hopeless)
    assert bool(cancel_hopeless(sweep)) == hopeless
    assert slurm.calls("scancel") == (["scancel --quiet 100_0"] if hopeless else [])
    slurm.queue("100_1|RUNNING|None")
    (one, _) = sweep_status(sweep)
    assert one.state == ("failed" if hopeless else "lost")
    assert ("could never start" in str(one.reason)) == hopeless


def frozen_by_hand(root: Path) -> Path:
    """The folder of a sweep of two runs of which nothing but the names matters."""
    folder = root / "sweeps" / "hand"
    runs = {"one": "1" * 32, "two": "2" * 32}
    files.write_json(
        folder / "sweep.json",
        {"runs": list(runs.values()), "names": {run: name for name, run in runs.items()},
         "overrides": [], "time": 0.0, "launcher": "slurm", "options": {}},
    )  # fmt: skip
    jobs = {f"run-{run}": f"100_{number}" for number, run in enumerate(runs.values())}
    files.write_json(folder / "slurm" / "jobs.json", jobs)
    return folder
