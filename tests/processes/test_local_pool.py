"""The local pool with real processes: one job's end, however violent, costs one run."""

import os
import signal
from pathlib import Path

import pytest

from ablate.errors import ConfigError
from ablate.launch import local
from ablate.launch.jobs import jobs_of
from ablate.launch.local import State
from ablate.launch.sweep import thaw
from ablate.stages.forks import death
from ablate.store import records
from sweeps import go, striking, sweep_of


def test_shared_stages_are_jobs_of_their_own_and_come_first(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=dpo"], ["objective=ipo"], ["objective=dpo"])
    jobs, stored = jobs_of(sweep)
    assert stored == []
    assert [job.title for job in jobs].count("run") == 2, "equal runs are one"
    keys = [job.key for job in jobs]
    assert len(set(keys)) == len(keys)
    for job in jobs:
        assert all(keys.index(need) < keys.index(job.key) for need in job.needs)


def test_a_frozen_run_is_the_run_it_was_frozen_from(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=simpo", "seed=3"])
    (identity, planned), = sweep.plans.items()  # fmt: skip
    thawed = thaw(sweep.frozen(identity))
    assert thawed.run == planned.run
    assert thawed.identity == identity


def test_a_changed_file_ends_a_frozen_run_clearly(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"one")
    sweep = sweep_of(tmp_path / "store", ["base_model=hf", f"base_model.path={folder}"])
    (identity,) = sweep.plans
    assert thaw(sweep.frozen(identity)).identity == identity
    (folder / "model.safetensors").write_bytes(b"two!")
    with pytest.raises(ConfigError, match="changed since"):
        thaw(sweep.frozen(identity))


def test_a_killed_job_and_a_failing_job_cost_one_run_each(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{}")
    (damaged / "model.safetensors").write_bytes(b"no weights")
    arms = [
        ["objective=dpo"],
        ["objective=ipo", "base_model=hf", f"base_model.path={damaged}"],
        ["objective=rpo_bwd"],
        ["objective=simpo", "training.epochs=2000"],
    ]
    sweep = sweep_of(tmp_path / "store", *arms)
    by_name = {planned.run.objective.name: planned for planned in sweep.plans.values()}
    endless = by_name["simpo"].evaluation.inputs["policy"].identity
    with striking(sweep.layout.claims / endless, after=0.5):
        outcomes = go(sweep)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "dpo": "done", "ipo": "failed", "rpo_bwd": "done", "simpo": "failed",
    }  # fmt: skip
    assert "SIGKILL" in str(outcomes["simpo"].reason)
    assert "damaged" in str(outcomes["ipo"].reason)
    found = {record.data["config"]["objective"]["name"] for record in records.records(sweep.layout)}
    assert found == {"dpo", "rpo_bwd"}

    # the same sweep again, the two arms mended, does only what is missing
    again = go(sweep_of(tmp_path / "store", ["objective=dpo"], ["objective=ipo"], arms[2]))
    assert {name: outcome.status for name, outcome in again.items()} == {
        "dpo": "stored", "ipo": "done", "rpo_bwd": "stored",
    }  # fmt: skip


def test_a_failing_shared_stage_fails_its_runs_with_the_one_cause(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ["objective=dpo"], ["objective=ipo"])
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "pool").write_text("in the way")
    outcomes = go(sweep)
    assert {outcome.status for outcome in outcomes.values()} == {"failed"}
    assert len(list(records.failures(sweep.layout))) == 2, "`ablate ls` knows of them"
    reasons = {outcome.reason for outcome in outcomes.values()}
    assert len(reasons) == 1
    assert "pool" in str(reasons.pop())


def test_the_state_tells_what_happens(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def show(state: State) -> None:
        seen.append((len(state.finished), state.jobs_done))
        assert len(state.running) <= 2

    sweep = sweep_of(tmp_path, ["objective=dpo"])
    go(sweep, show)
    assert seen[0] == (0, 0)
    assert seen[-1][0] == 1
    assert seen == sorted(seen)


def test_the_server_never_touches_cuda() -> None:
    import subprocess
    import sys

    code = (
        "import ablate.stages.preload, torch, sys;"
        "assert not torch.cuda.is_initialized(); assert 'trl' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("code", "told"), [(-9, "SIGKILL"), (-11, "SIGSEGV"), (3, "exit code 3")])
def test_a_death_is_told_by_its_signal(code: int, told: str) -> None:
    assert told in death(code)


def test_gpus_are_told_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert local.visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local.visible_gpus() == []


def test_each_job_sees_one_gpu_and_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    sweep = sweep_of(tmp_path, ["objective=dpo"])
    pool = local._Pool(sweep, 3, lambda state: None)
    assert pool.free_gpus == ["2", "5", "2"]
    pool.stop()
    go(sweep)
    (run,) = records.records(sweep.layout)
    assert run.data["status"] == "done"


def test_a_job_of_two_processes_gets_two_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7,8")
    arms = [["objective=dpo", "runtime.processes=2"], ["objective=ipo", "runtime.processes=2"]]
    sweep = sweep_of(tmp_path, *arms)
    plans = list(sweep.plans.values())
    assert local.default_workers(plans) == 2
    pool = local._Pool(sweep, 2, lambda state: None)
    taken = [pool._take_gpus(key) for key in ("one", "two")]
    assert taken == ["2,5", "7,8"]
    pool.free_gpus += pool.gpus_of.pop("one")
    assert pool._take_gpus("three") == "2,5"
    pool.stop()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    pool = local._Pool(sweep, 2, lambda state: None)
    assert pool._take_gpus("one") == "2", "a GPU twice in the list would be no GPU list"
    pool.stop()


def test_a_folder_for_temporary_files_with_too_long_a_path_is_told(tmp_path: Path) -> None:
    import subprocess
    import sys

    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    code = (
        "from ablate.stages.forks import fork_context; from ablate.errors import ConfigError\n"
        "try: fork_context()\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(deep)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Set TMPDIR to another, with a short path" in done.stdout


def test_a_fork_server_that_was_killed_is_begun_again(tmp_path: Path) -> None:
    from multiprocessing import forkserver

    from ablate.launch.worker import work
    from ablate.stages.forks import fork_context, start

    context = fork_context()
    server = forkserver._forkserver._forkserver_pid
    assert server is not None
    os.kill(server, signal.SIGKILL)
    outcome = tmp_path / "outcome.json"
    arguments = (str(tmp_path / "none.json"), None, str(outcome), str(tmp_path / "log"), {})
    process = context.Process(target=work, args=arguments)
    start(process)
    process.join(60)
    assert process.exitcode == 1
    assert "does not hold the run none as it was frozen" in outcome.read_text()
