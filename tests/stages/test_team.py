"""Runs on several processes: the same run, in real processes that end together."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest

from ablate import preemption
from ablate.config.compose import compose
from ablate.errors import ConfigError, StageFailed
from ablate.launch.sweep import layout_of
from ablate.stages.complete import Outcome, complete
from ablate.stages.context import Report
from ablate.stages.execute import Silent
from ablate.stages.graph import Stage, plan
from ablate.stages.ranks import _LoggedOnce
from smallrun import SMALL

# 24 prompts in batches of 10: the last batch is uneven; the reward model has one of its own
RUN = ["training.batch_size=10", "training.checkpoint_every=2", "reward=explicit", "seed=5"]


def run_of(store: Path, *words: str) -> Outcome:
    run = compose([*SMALL, *RUN, f"results_dir={store}", *words])
    layout = layout_of(run)
    return complete(plan(run, layout), layout)


def steps_of(outcome: Outcome) -> pd.DataFrame:
    return pd.read_parquet(outcome.record.path / "train.parquet")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_of(tmp_path_factory.mktemp("alone"))


def same_run(alone: Outcome, other_steps: pd.DataFrame, other_metrics: dict) -> None:
    for column in ("loss", "grad_norm", "kl_ref_policy", "prompts", "tokens"):
        assert other_steps[column].tolist() == pytest.approx(
            steps_of(alone)[column].tolist(), rel=2e-2, abs=1e-4
        ), column
    mine = alone.record.data["metrics"]["reward"]["test"]["mean"]
    assert other_metrics["reward"]["test"]["mean"] == pytest.approx(mine, abs=0.5)


def test_two_processes_leave_the_run_of_one(alone: Outcome, tmp_path: Path) -> None:
    both = run_of(tmp_path, "runtime.processes=2")
    assert both.record.data["machine"]["processes"] == 2
    assert both.record.path.parent.name == alone.record.path.parent.name, "the same identity"
    same_run(alone, steps_of(both), both.record.data["metrics"])
    assert both.record.data["tokens_trained"] == alone.record.data["tokens_trained"]
    names = [
        {p.relative_to(o.record.path.parents[2] / "stages").parts[0::2]: None
         for p in (o.record.path.parents[2] / "stages").rglob("*")}
        for o in (alone, both)
    ]  # fmt: skip
    assert names[0] == names[1], "the same files, nothing of the second process's among them"
    assert list((tmp_path / "scratch").iterdir()) == []
    assert multiprocessing.active_children() == []


def test_what_every_process_refuses_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"33 does not divide among 2 processes") as hit:
        run_of(tmp_path, "runtime.processes=2", "base_model.sft.batch_size=33")
    assert "process 1" not in str(hit.value)
    assert multiprocessing.active_children() == []


#: the second process has memory for few tokens, and every process believes in more
SCARCE = """
import os, torch
import ablate.training.policy as policy
import ablate.training.rpo as rpo
whole = rpo.scored_group
def scarce(model, batch, *rest, **named):
    if os.environ.get("RANK") == "1" and batch["input_ids"].numel() > 128:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB.")
    return whole(model, batch, *rest, **named)
rpo.scored_group = scarce
policy.tokens_for = lambda *_: 256
"""
#: runs the command with that module in the server from which processes are forked
WITH_SCARCE = """
import sys
from ablate.stages import forks
forks.PRELOAD.append("scarce")
from ablate.cli.main import run
run(sys.argv[1:])
"""


def with_scarce_memory(folder: Path, *words: str) -> str:
    """What a run of two processes says, one of which is short of memory."""
    (folder / "scarce.py").write_text(SCARCE)
    done = subprocess.run(
        [sys.executable, "-c", WITH_SCARCE, *SMALL, *RUN, "runtime.processes=2", *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_memory_that_runs_out_in_one_process_halves_the_tokens_of_all(
    alone: Outcome, tmp_path: Path
) -> None:
    told = with_scarce_memory(tmp_path)
    assert told.count("policy: memory ran out in one of 2 processes") == 1
    assert "all begin again with training.tokens_per_device=128" in told
    (path,) = (tmp_path / "results" / "runs").glob("*/1/record.json")
    record = json.loads(path.read_text())
    (policy,) = [stage["result"] for stage in record["stages"] if stage["name"] == "policy"]
    assert policy["computed"] == {"shared_prompt": "on", "tokens_per_device": 128, "halvings": 1}
    steps = pd.read_parquet(path.parent / "train.parquet")
    assert steps["step"].tolist() == steps_of(alone)["step"].tolist()
    same_run(alone, steps, record["metrics"])


def test_an_implicit_reward_is_begun_again_too(tmp_path: Path) -> None:
    told = with_scarce_memory(tmp_path, "reward=implicit", "training.max_steps=1")
    assert told.count("reward model (implicit): memory ran out in one of 2 processes") == 1


def test_of_a_training_that_is_begun_again_what_is_new_is_logged() -> None:
    lines: list[int] = []
    once = _LoggedOnce(lambda step, metrics: lines.append(step))
    for step in (1, 2):
        once(step, {})
    once.begin_again()
    # short of memory again before it came as far
    once(1, {})
    once.begin_again()
    for step in (1, 2, 3, 4):
        once(step, {})
    # a second training of the stage counts anew
    once(1, {})
    assert lines == [1, 2, 3, 4, 1]


def in_the_background(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_killed_process_fails_the_stage_and_takes_the_other_along(tmp_path: Path) -> None:
    def kill() -> None:
        while True:
            time.sleep(0.05)
            ranks = {p.name: p for p in multiprocessing.active_children()}
            if "rank 1" in ranks:
                # some steps into the training
                time.sleep(3)
                os.kill(ranks["rank 1"].pid or 0, signal.SIGKILL)
                return

    killer = in_the_background(kill)
    with pytest.raises(StageFailed, match=r"'SFT policy' failed in process 1 of 2: .*SIGKILL"):
        run_of(tmp_path, "runtime.processes=2", "base_model.sft.steps=100000")
    killer.join()
    assert multiprocessing.active_children() == []
    assert list((tmp_path / "scratch").iterdir()) == []
    assert list((tmp_path / "claims").iterdir()) == []


class Interrupting(Silent):
    """Sends the scheduler's wish to this process in the fourth step of the policy's training."""

    def __init__(self) -> None:
        self.sent = False

    def start(self, stage: Stage) -> Report:
        def report(done: int, total: int, metrics: dict[str, float]) -> None:
            if stage.name == "policy" and done == 4 and not self.sent:
                self.sent = True
                os.kill(os.getpid(), signal.SIGUSR2)

        return report


def test_two_processes_that_are_interrupted_end_with_the_weights_of_two_that_are_not(
    tmp_path: Path,
) -> None:
    long = ["runtime.processes=2", "training.epochs=8", "reward=gold"]
    whole = run_of(tmp_path / "whole", *long)
    run = compose([*SMALL, *RUN, f"results_dir={tmp_path / 'broken'}", *long])
    layout = layout_of(run)
    before = signal.getsignal(signal.SIGUSR2)
    preemption.listen(signal.SIGUSR2)
    try:
        with pytest.raises(preemption.Preempted, match=r"after step \d+ of 20"):
            complete(plan(run, layout), layout, Interrupting())
    finally:
        preemption.listen()
        signal.signal(signal.SIGUSR2, before)
    assert multiprocessing.active_children() == []
    (saved,) = layout.partial.glob("*/step-*")
    assert {path.name for path in saved.glob("trainer/rng_state_*")} == {
        "rng_state_0.pth", "rng_state_1.pth",
    }  # fmt: skip
    again = complete(plan(run, layout), layout)
    assert again.record.data["policy"]["weights"] == whole.record.data["policy"]["weights"]
    assert again.record.data["metrics"] == whole.record.data["metrics"]
    assert steps_of(again)["step"].tolist() == list(range(1, 21))
    assert not list(layout.partial.iterdir())


def start(folder: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ablate", *SMALL, *RUN, f"results_dir={folder}", *words]
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, **(env or {})}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_that_started_it(
    tmp_path: Path, ending: signal.Signals
) -> None:
    main = start(tmp_path, "runtime.processes=2", "base_model.sft.steps=100000")
    try:
        family: list[psutil.Process] = []
        while main.poll() is None and len(family) < 4:
            time.sleep(0.2)
            # the fork server, the resource tracker and two ranks
            family = psutil.Process(main.pid).children(recursive=True)
    finally:
        # as a terminal does, to the whole process group; SIGKILL to the one process only
        target = main.pid
        os.kill(target, ending) if ending == signal.SIGKILL else os.killpg(target, ending)
        main.communicate(timeout=60)
    assert len(family) >= 4
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    if ending == signal.SIGINT:
        assert main.returncode == 130
        assert list((tmp_path / "scratch").iterdir()) == []


def launch(folder: Path, words: list[list[str]]) -> list[tuple[int, str, str]]:
    """Two ranks as `srun` or a shell would start them: exit code, output and errors of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = [
        start(folder, *own, env={
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        })
        for rank, own in enumerate(words)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, *words) for rank, words in zip(ranks, said, strict=True)]


def test_ranks_of_a_launcher_join_into_one_run(alone: Outcome, tmp_path: Path) -> None:
    lead, other = launch(tmp_path, [[], []])
    assert (lead[0], other[0]) == (0, 0), lead[2] + other[2]
    assert "judge reward" in lead[1]
    assert other[1].strip() == ""
    (record,) = (tmp_path / "runs").glob("*/*")
    assert record.parent.name == alone.record.path.parent.name
    data = json.loads((record / "record.json").read_text())
    assert data["machine"]["processes"] == 2
    same_run(alone, pd.read_parquet(record / "train.parquet"), data["metrics"])
    assert list((tmp_path / "scratch").iterdir()) == []


def test_ranks_that_planned_different_runs_say_so(tmp_path: Path) -> None:
    lead, other = launch(tmp_path, [["seed=6"], ["seed=7"]])
    assert lead[0] != 0
    assert other[0] != 0
    assert "process 1 planned another run than process 0" in lead[2]
    assert "process 1 planned another run than process 0" in other[2]


def test_a_sweep_is_not_for_a_launcher(tmp_path: Path) -> None:
    sweep = start(tmp_path, "-m", env={"RANK": "0", "WORLD_SIZE": "2"})
    assert "a sweep starts its own processes" in sweep.communicate(timeout=60)[1]
    assert sweep.returncode == 2
