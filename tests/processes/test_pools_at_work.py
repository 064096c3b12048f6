"""What others see of a local sweep that is under way, and how they stop it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ablate.launch.pools import at_work, pools
from ablate.launch.status import sweep_status
from ablate.store import claims, files, records
from ablate.store.layout import Layout
from smallrun import SMALL
from sweeps import go, sweep_of

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_a_local_sweep_is_running_and_queued_until_it_is_cancelled(
    ablate: Command, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    layout, place = Layout(root), f"results_dir={root}"
    words = [*SMALL, "objective=dpo,ipo", "training.epochs=2000", "hydra.launcher.workers=1"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "ablate", *words, place, "-m"],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        end = time.monotonic() + 200
        while not list(layout.claims.glob("run-*")):
            assert sweep.poll() is None, sweep.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.05)
        told = ablate("status", "--all", place)
        assert "2 runs: 1 running, 1 queued" in told.stdout
        assert f"process {sweep.pid}" in told.stdout
        assert told.returncode == 0, "all is well"
        assert "nothing failed, nothing is missing" in ablate("retry", place).stdout

        told = ablate("cancel", place)
        assert told.returncode == 0, told.stdout
        assert f"the launcher on this machine (process {sweep.pid}) stopped" in told.stdout
        assert sweep.wait(60) == 130
    finally:
        if sweep.poll() is None:
            sweep.send_signal(signal.SIGINT)
        sweep.communicate(timeout=60)
    assert list(layout.claims.iterdir()) == [], "jobs ended as cleanly as by Ctrl-C"
    told = ablate("status", place)
    assert "2 runs: 2 missing" in told.stdout
    assert told.returncode == 1
    told = ablate("cancel", place)
    assert "nothing runs" in told.stdout
    assert told.returncode == 0


def test_a_sweep_on_another_host_is_named_and_left_alone(ablate: Command, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=dpo"])
    with at_work(sweep.layout, sweep.name):
        (path,) = sweep.layout.claims.iterdir()
        owner = files.read_json(path / claims.OWNER)
        files.write_json(path / claims.OWNER, {**owner, "host": "elsewhere", "pid": 12345})
        (status,) = sweep_status(sweep.folder)
        assert status.state == "queued"
        told = ablate("cancel", f"results_dir={tmp_path}")
        assert told.returncode == 1
        assert "still runs on elsewhere, process 12345" in told.stdout
    assert [s.state for s in sweep_status(sweep.folder)] == ["missing"]


def test_a_pool_that_died_is_not_at_work(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from ablate.launch.pools import at_work, pools; from ablate.store.layout import Layout\n"
        "with at_work(Layout(Path(sys.argv[1])), 'x'):\n"
        "    assert len(pools(Layout(Path(sys.argv[1])), 'x')) == 1\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(layout.claims.iterdir())) == 1
    assert pools(layout, "x") == []


def test_what_a_pool_will_try_again_is_queued_not_failed(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=dpo"])
    (identity,) = sweep.plans
    attempt = records.new_attempt(sweep.layout, identity)
    records.write_failure(attempt, "dpo", "the try before", None)
    assert [s.state for s in sweep_status(sweep.folder)] == ["failed"]
    with at_work(sweep.layout, sweep.name):
        assert [s.state for s in sweep_status(sweep.folder)] == ["queued"]
        again = records.new_attempt(sweep.layout, identity)
        records.write_failure(again, "dpo", "this try", None)
        assert [s.reason for s in sweep_status(sweep.folder)] == ["this try"]


def test_the_log_of_a_shared_stage_that_failed_is_found(ablate: Command, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=dpo"], ["objective=ipo"])
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "pool").write_text("in the way")
    go(sweep)
    (log,) = {status.log for status in sweep_status(sweep.folder)}
    assert log is not None
    told = ablate("status", f"results_dir={tmp_path}", env={"COLUMNS": "300"})
    assert os.path.relpath(log, tmp_path) in told.stdout
    for identity in sweep.plans:
        told = ablate("logs", identity[:10], f"results_dir={tmp_path}")
        assert told.returncode == 0, told.stderr
        assert "pool" in told.stdout
