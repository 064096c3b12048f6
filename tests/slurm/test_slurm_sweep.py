"""Sweeps on a real SLURM: what a person starts ends in the store, whatever happens to single jobs.

Run by `make slurm-test`, which starts a cluster of one node.
"""

import os
import pickletools
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path

from ablate.launch import scheduler
from ablate.launch.slurm import submitted
from ablate.store import claims, files, records
from ablate.store.files import read_json
from ablate.store.layout import Layout
from smallrun import SMALL

OBJECTIVES = ["dpo", "ipo", "simpo", "rpo_bwd", "rpo_sqloo", "kto"]


def published(folder: Path) -> dict[str, int]:
    """Revisions by run; every file of every record and stage holds its checksum."""
    layout = Layout(folder)
    for path in [*layout.runs.glob("*/*"), *layout.stages.glob("*/*")]:
        assert files.damage(path) is None, path
    return {record.identity: record.revision for record in records.records(layout)}


def test_twelve_runs_share_their_stages_and_all_are_done(desk) -> None:
    grid = [f"objective={','.join(OBJECTIVES)}", "seed=0,1"]
    told = desk.submit(*grid, "hydra.launcher.runs_per_job=3")
    assert "12 runs, 0 in the store" in told
    assert re.search(r"submitted \d+ stages and 12 runs \(3 runs to a job\)", told), told
    assert f"ablate status {desk.sweep().name}" in told
    assert "nothing to submit" in desk.submit(*grid), "the same command finds all of it queued"
    desk.until_idle()
    assert {s.state for s in desk.status().values()} == {"done"}
    assert list(published(desk.results).values()) == [1] * 12
    assert len(list((desk.results / "stages" / "sft").iterdir())) == 2, "one SFT for each seed"
    again = desk.submit(*grid)
    assert "12 in the store" in again
    assert "nothing to submit" in again


def test_rough_weather(desk, stock, controller) -> None:
    """Twelve runs: one killed, one cancelled, one raises; YAML edited, controller restarted."""
    desk.stock(stock)
    levels = desk.folder / "mine" / "objective"
    levels.mkdir(parents=True)
    mine = levels / "mine.yaml"
    text = "defaults: [dpo, _self_]\nname: mine\nbeta: 0.25\n"
    mine.write_text(text)
    names = [*OBJECTIVES[:5], "mine"]
    words = ["--config-dir", "mine", f"objective={','.join(names)}", "seed=0,1"]
    # long enough to be met while it runs
    words += ["seed.scope=policy", "training.epochs=4"]
    told = desk.submit(*words)
    assert "submitted 0 stages and 12 runs as jobs" in told, "twelve jobs are too many for an array"
    folder, layout = desk.sweep(), Layout(desk.results)
    ids = {name: status.identity for name, status in desk.status().items()}
    jobs = submitted(folder)
    assert len({job.split("_")[0] for job in jobs.values()}) == 2
    # edited while its job is queued: the job must not care
    mine.write_text(text.replace("0.25", "0.75"))
    # raises: what a run was frozen as is gone
    (folder / "runs" / f"{ids['mine-1']}.json").unlink()
    subprocess.run(["scancel", jobs[f"run-{ids['simpo-0']}"]], check=True)
    controller("stop")
    controller("start")

    def training() -> list[str]:
        """Runs that are being completed now, a moment after they began."""
        held = [n for n, i in ids.items() if claims.is_held(layout.claims / f"run-{i}")]
        return [n for n in held if n not in ("simpo-0", "mine-1")]

    desk.until(training, say="a run under way")
    victim = training()[0]
    owner = read_json(layout.claims / f"run-{ids[victim]}" / "owner.json")
    os.kill(owner["pid"], signal.SIGKILL)
    desk.until_idle()

    found = desk.status()
    states = {name: status.state for name, status in found.items()}
    odd = {victim: "failed", "mine-1": "failed", "simpo-0": "lost"}
    assert states == dict.fromkeys(ids, "done") | odd
    assert "killed by SIGKILL" in found[victim].reason
    assert ids["mine-1"] in found["mine-1"].reason, "names the file that is gone"
    record = records.latest(layout, ids["mine-0"])
    assert record.data["config"]["objective"]["beta"] == 0.25
    assert len(published(desk.results)) == 9
    told = desk.ablate("status", check=False)
    assert "9 done, 2 failed, 1 lost" in told
    assert "killed by SIGKILL" in told

    # the frozen run cannot be made up again by retry: the same command writes it anew
    mine.write_text(text)
    assert "9 in the store" in desk.submit(*words)
    desk.until_idle()
    assert {status.state for status in desk.status().values()} == {"done"}
    assert list(published(desk.results).values()) == [1] * 12, "each exactly once"


def test_cancel_and_retry(desk, stock) -> None:
    """Four runs where two jobs may be queued at a time."""
    desk.stock(stock)
    words = ["objective=dpo,ipo,simpo,kto", "training.epochs=60", "hydra.launcher.max_submit=2"]
    assert "4 runs (2 runs to a job)" in desk.submit(*words)
    assert "nothing to submit" in desk.submit(*words), "nothing twice"
    layout = Layout(desk.results)
    desk.until(lambda: any(layout.claims.glob("run-*")), say="the first run")
    assert "jobs cancelled" in desk.ablate("cancel")
    desk.until_idle()
    # on a slow machine one may have been done by then, but never the second of a job
    states = [status.state for status in desk.status().values()]
    assert set(states) <= {"lost", "done"}
    assert states.count("lost") >= 2
    assert f"{states.count('lost')} lost" in desk.ablate("status", check=False)
    assert "submitted" in desk.ablate("retry")
    desk.until_idle()
    assert {status.state for status in desk.status().values()} == {"done"}
    assert list(published(desk.results).values()) == [1] * 4
    assert "nothing failed" in desk.ablate("retry")


def test_a_run_that_runs_out_of_time_is_queued_again_and_ends_with_the_same_weights(
    desk, stock
) -> None:
    """The limit is a minute, told some seconds ahead; the training takes longer."""
    desk.stock(stock)
    long = ["objective=rpo_bwd", "training.epochs=800", "training.checkpoint_every=800"]
    limits = "hydra.launcher.stages={run:{timeout_min:1,signal_delay_s:20}}"
    desk.submit(*long, limits, "hydra.launcher.max_num_timeout=30")
    layout = Layout(desk.results)
    desk.until(lambda: any(layout.partial.glob("*/step-*")), 900, say="a training saved whole")
    (job,) = submitted(desk.sweep()).values()
    # once, or more often on a slow machine, is enough
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=60"], check=True)
    desk.until_idle(900)
    (status,) = desk.status().values()
    assert status.state == "done", status
    whole = desk.folder / "undisturbed"
    shutil.copytree(desk.results / "stages", whole / "stages",
                    ignore=shutil.ignore_patterns("policy", "evaluation"))  # fmt: skip
    desk.ablate(*SMALL, *long, f"results_dir={whole}", timeout=600)
    (first,) = records.records(layout)
    (second,) = records.records(Layout(whole))
    assert first.data["policy"]["weights"] == second.data["policy"]["weights"]
    assert first.data["metrics"] == second.data["metrics"]
    assert not list(layout.partial.iterdir()), "nothing is left of the interruption"


def test_the_tasks_of_a_job_train_together(desk, stock) -> None:
    """Two tasks of one job leave the weights that two processes started by one run leave."""
    desk.stock(stock)
    desk.submit("objective=rpo_bwd", "hydra.launcher.tasks_per_node=2")
    desk.until_idle()
    (status,) = desk.status().values()
    assert status.state == "done", status
    other = desk.folder / "other"
    shutil.copytree(desk.results / "stages", other / "stages",
                    ignore=shutil.ignore_patterns("policy", "evaluation"))  # fmt: skip
    desk.ablate(*SMALL, "objective=rpo_bwd", "runtime.processes=2", f"results_dir={other}")
    (first,) = records.records(Layout(desk.results))
    (second,) = records.records(Layout(other))
    assert first.data["machine"]["processes"] == second.data["machine"]["processes"] == 2
    assert first.data["policy"]["weights"] == second.data["policy"]["weights"]
    told = desk.submit("hydra.launcher.tasks_per_node=2", "runtime.processes=4", check=False)
    assert "runtime.processes=4, but a job has 2 tasks" in told


def test_a_stage_that_fails_fails_its_runs_with_one_cause_and_no_others(desk, stock) -> None:
    """The reward model of two of four runs cannot be published."""
    desk.stock(stock, "reward_model")
    (desk.results / "stages" / "reward_model").write_text("in the way")
    desk.submit("objective=dpo,ipo", "reward=gold,explicit")
    desk.until_idle()
    layout = Layout(desk.results)
    names = [record.data["config"]["reward"]["name"] for record in records.records(layout)]
    assert names == ["gold", "gold"]
    failures = list(records.failures(layout))
    assert len(failures) == 2
    assert len({failure.data["reason"] for failure in failures}) == 1
    assert "reward model" in failures[0].data["reason"]
    told = desk.ablate("logs", failures[0].data["id"][:10])
    assert "could not be written" in told
    (layout.stages / "reward_model").unlink()
    desk.ablate("retry")
    desk.until_idle()
    assert {status.state for status in desk.status().values()} == {"done"}


def test_what_can_never_start_is_cancelled_and_told(desk, stock) -> None:
    """A node of two processors has no three for a task; sbatch may take the job all the same."""
    desk.stock(stock)
    desk.submit("objective=dpo", "hydra.launcher.cpus_per_task=3")
    told: list[str] = []

    def cancelled() -> bool:
        told.append(desk.ablate("status", check=False))
        return "can never start and was cancelled" in told[-1]

    desk.until(cancelled, 60, "a hopeless job")
    assert not scheduler.queue()
    assert "1 failed" in told[-1]
    assert "could never start: SLURM says" in told[-1]
    # the same command with what the site has goes on
    desk.submit("objective=dpo")
    desk.until_idle()
    assert {status.state for status in desk.status().values()} == {"done"}
    assert "sbatch refuses" in desk.submit("seed=1", "hydra.launcher.mem_gb=9999", check=False)


def test_nothing_but_data_is_left_and_it_is_private(desk, stock) -> None:
    desk.stock(stock)
    secret = "hunter2-not-for-any-file"
    os.environ["MY_SERVICE_TOKEN"] = secret
    try:
        desk.submit("objective=dpo")
    finally:
        del os.environ["MY_SERVICE_TOKEN"]
    folder = desk.sweep()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "slurm").stat().st_mode) == 0o700
    desk.until_idle()
    for path in desk.results.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    # a pickle names the function of ours that a job calls, and holds texts and numbers
    for path in folder.rglob("*_submitted.pkl"):
        names = {
            argument
            for code, argument, _ in pickletools.genops(path.read_bytes())
            if code.name == "SHORT_BINUNICODE" and isinstance(argument, str)
        }
        assert {"ablate.launch.node", "run", "submitit.core.utils", "DelayedSubmission"} <= names
    for path in (folder / "runs").glob("*.json"):
        assert "_target_" not in path.read_text()
