"""Ways in which launchers fail people, each with the tests that show that ours do not.

 1  One job of an array dies and the results of all others are lost.
 2  A job that raised is told as completed.
 3  Editing YAML changes jobs that are queued already.
 4  What failed cannot be run again alone, nor a sweep be continued.
 5  Only the first traceback is shown; the log of the job is empty.
 6  Two launches in the same second overwrite each other's folder.
 7  Pickles drag in what cannot be pickled, and fail outside of the working directory.
 8  Limits of arrays cap the index, not the count; sites cap submitted jobs.
 9  Preemption: signals that others eat, half-written checkpoints that are picked.
10  Ranks that each resolve the configuration, and disagree.
11  A tracker's offline runs cannot be appended to after a requeue.
"""

import ast
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.config.compose import compose
from ablate.config.expand import Expansion
from ablate.config.launcher import SlurmConfig, slurm_config
from ablate.errors import ConfigError
from ablate.launch import node
from ablate.launch.jobs import RUN, Job
from ablate.launch.local import RunOutcome
from ablate.launch.slurm import _runs_per_job, batches
from ablate.launch.sweep import freeze, prepare, thaw
from ablate.store import records
from smallrun import SMALL
from sweeps import go, striking, sweep_of

HERE = "processes/test_what_others_suffer.py"
POOL, SLURM = "processes/test_local_pool.py", "slurm/test_slurm_sweep.py"
SHOWN_BY = {
    1: [(POOL, "test_a_killed_job_and_a_failing_job_cost_one_run_each"),
        (SLURM, "test_rough_weather")],
    2: [(POOL, "test_a_killed_job_and_a_failing_job_cost_one_run_each"),
        (SLURM, "test_a_stage_that_fails_fails_its_runs_with_one_cause_and_no_others")],
    3: [(HERE, "test_editing_a_level_changes_nothing_that_is_frozen"),
        (SLURM, "test_rough_weather")],
    4: [(SLURM, "test_cancel_and_retry"),
        ("processes/test_bad_disks.py",
         "test_a_sweep_whose_disk_fails_ends_clearly_and_retry_completes_it")],
    5: [(HERE, "test_every_failed_run_keeps_its_own_cause_and_log")],
    6: [(HERE, "test_two_launchers_at_once_do_everything_once")],
    7: [(HERE, "test_what_is_pickled_is_found_from_any_folder"),
        (SLURM, "test_nothing_but_data_is_left_and_it_is_private")],
    8: [(HERE, "test_arrays_keep_to_the_limits_of_a_site"), (SLURM, "test_rough_weather")],
    9: [("training/test_resume.py", "test_a_half_written_training_is_never_picked"),
        ("stages/test_team.py",
         "test_two_processes_that_are_interrupted_end_with_the_weights_of_two_that_are_not"),
        (SLURM,
         "test_a_run_that_runs_out_of_time_is_queued_again_and_ends_with_the_same_weights")],
    10: [("stages/test_team.py", "test_ranks_that_planned_different_runs_say_so")],
    11: [("stages/test_tracker.py", "test_an_offline_mirror_holds_the_steps_and_the_summary")],
}  # fmt: skip


@pytest.mark.parametrize("number", range(1, 12))
def test_every_failure_has_its_test(number: int) -> None:
    for file, name in SHOWN_BY[number]:
        tree = ast.parse((Path(__file__).parents[1] / file).read_text())
        assert name in {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}


def test_editing_a_level_changes_nothing_that_is_frozen(tmp_path: Path) -> None:
    level = tmp_path / "mine" / "objective" / "mine.yaml"
    level.parent.mkdir(parents=True)
    level.write_text("defaults: [dpo, _self_]\nname: mine\nbeta: 0.25\n")
    words = [*SMALL, "objective=mine", f"results_dir={tmp_path / 'store'}"]
    sweep = prepare(Expansion([compose(words, [str(tmp_path / "mine")])], [{}]))
    freeze(sweep, words, "local", {"workers": 1, "max_restarts": 0})
    level.write_text("defaults: [dpo, _self_]\nname: mine\nbeta: 0.75\n")
    (identity,) = sweep.plans
    assert thaw(sweep.frozen(identity)).run.objective.beta == 0.25
    level.unlink()
    assert thaw(sweep.frozen(identity)).identity == identity


def test_every_failed_run_keeps_its_own_cause_and_log(tmp_path: Path) -> None:
    arms = []
    for name, objective in (("one", "dpo"), ("two", "ipo")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "%s"}' % name)  # noqa: UP031
        (folder / "model.safetensors").write_bytes(name.encode())
        arms.append([f"objective={objective}", "base_model=hf", f"base_model.path={folder}"])
    outcomes = go(sweep_of(tmp_path / "store", *arms))
    for objective, name in (("dpo", "one"), ("ipo", "two")):
        outcome: RunOutcome = outcomes[objective]
        assert outcome.status == "failed"
        assert str(tmp_path / name) in str(outcome.reason)
    logs = "".join(path.read_text() for path in (tmp_path / "store").glob("sweeps/*/logs/*.log"))
    for name in ("one", "two"):
        assert str(tmp_path / name) in logs


def test_two_launchers_at_once_do_everything_once(tmp_path: Path) -> None:
    """Counted by the private folders in which stages and records are made."""
    arms = [["objective=dpo"], ["objective=ipo"], ["objective=simpo"]]
    sweep = sweep_of(tmp_path, *arms)
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            if sweep.layout.scratch.is_dir():
                seen.update(os.listdir(sweep.layout.scratch))

    outcomes: list[dict[str, RunOutcome]] = []
    watcher = threading.Thread(target=watch)
    launchers = [
        threading.Thread(target=lambda: outcomes.append(go(sweep_of(tmp_path, *arms))))
        for _ in range(2)
    ]
    for thread in (watcher, *launchers):
        thread.start()
    for launcher in launchers:
        launcher.join()
    stop.set()
    watcher.join()
    assert [o.status for found in outcomes for o in found.values()] == ["done"] * 6
    made = Counter(name.split("@")[0] for name in seen if not name.startswith("ranks"))
    stages = {f"{s.name}-{s.identity[:12]}" for p in sweep.plans.values() for s in p.stages()}
    assert set(made) >= stages
    assert set(made.values()) == {1}
    assert [record.revision for record in records.records(sweep.layout)] == [1, 1, 1]


def test_what_is_pickled_is_found_from_any_folder(tmp_path: Path) -> None:
    from submitit.core.utils import DelayedSubmission

    path = tmp_path / "job.pkl"
    DelayedSubmission(node.run, str(tmp_path), str(tmp_path), [], "nothing", 0).dump(path)
    code = (
        "import sys; from pathlib import Path; from submitit.core.utils import DelayedSubmission\n"
        "job = DelayedSubmission.load(Path(sys.argv[1]))\n"
        "assert job.function.__module__ == 'ablate.launch.node', job.function\n"
        "assert job.args[2:] == ([], 'nothing', 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], cwd="/", check=True)


def _job(number: int, kind: str, needs: set[str]) -> Job:
    key = f"{kind}-{number}"
    return Job(key, kind, kind, Path(key), None if kind == RUN else key, needs)


@given(
    stages=st.integers(0, 30), runs=st.integers(1, 40), limit=st.integers(1, 9),
    per_job=st.integers(1, 4), seed=st.randoms(),
)  # fmt: skip
def test_arrays_keep_to_the_limits_of_a_site(
    stages: int, runs: int, limit: int, per_job: int, seed: object
) -> None:
    pick = seed.sample  # type: ignore[attr-defined]
    jobs: list[Job] = []
    for number in range(stages):
        earlier = [job.key for job in jobs]
        jobs.append(_job(number, "pool", set(pick(earlier, min(2, len(earlier))))))
    keys = [job.key for job in jobs]
    jobs += [_job(n, RUN, set(pick(keys, min(3, len(keys))))) for n in range(runs)]
    there: set[str] = set()
    for kind, batch in batches(jobs, per_job, limit):
        assert len(batch) <= limit
        assert all(len(item) <= (per_job if kind == RUN else 1) for item in batch)
        members = [job for item in batch for job in item]
        assert all(job.needs <= there for job in members), "inputs are in earlier arrays"
        there |= {job.key for job in members}
    assert there == {job.key for job in jobs}


def _config(**changes: object) -> SlurmConfig:
    from omegaconf import OmegaConf

    from ablate.config.levels import conf_dir

    level = OmegaConf.to_container(OmegaConf.load(conf_dir() / "hydra/launcher/slurm.yaml"))
    assert isinstance(level, dict)
    values = {str(k): v for k, v in level.items() if k != "_target_"}
    return slurm_config(values | changes, ["pool", RUN])


def test_runs_share_jobs_where_a_site_takes_few() -> None:
    jobs = [_job(0, "pool", set()), *(_job(n, RUN, set()) for n in range(10))]
    assert _runs_per_job(jobs, _config(), 0) == 1
    assert _runs_per_job(jobs, _config(max_submit=6), 0) == 2
    assert _runs_per_job(jobs, _config(max_submit=6), 3) == 5
    with pytest.raises(ConfigError, match="leave no room for runs"):
        _runs_per_job(jobs, _config(max_submit=6), 5)
    stages = [_job(n, "pool", set()) for n in range(4)]
    assert _runs_per_job(stages, _config(max_submit=6), 2) == 1
    with pytest.raises(ConfigError, match="4 stages and your 3 jobs in the queue are too many"):
        _runs_per_job(stages, _config(max_submit=6), 3)
    assert _runs_per_job([], _config(max_submit=6), 9) == 1, "nothing to submit is never too much"
    # trials and what reports them share no job: 3 + 2 jobs of two, but 2 + 1 of three
    phases = [_job(n, RUN, set()) for n in range(8)]
    for job in phases[5:]:
        job.phase = 2
    assert _runs_per_job(phases, _config(max_submit=4), 0) == 3


@pytest.mark.parametrize("key", ["stages={pool:{gpus_per_node:0}}", "stages.pool.mem_gb=3",
                                 "additional_parameters={reservation:mine}"])  # fmt: skip
def test_settings_with_keys_of_ones_own_need_no_plus(key: str) -> None:
    from ablate.config.overrides import normalize

    (word,) = normalize([f"hydra.launcher.{key}"])
    assert word == f"++hydra.launcher.{key}"


def test_a_job_that_died_is_started_again_where_that_was_asked(tmp_path: Path) -> None:
    from ablate.launch.local import run_locally

    sweep = sweep_of(tmp_path, ["objective=dpo", "training.epochs=30"])
    (planned,) = sweep.plans.values()
    policy = planned.evaluation.inputs["policy"].identity
    with striking(sweep.layout.claims / policy, after=0.2) as struck:
        (outcome,) = run_locally(sweep, 1, lambda state: None, max_restarts=1)
    assert len(struck) == 1
    assert outcome.status == "done"
