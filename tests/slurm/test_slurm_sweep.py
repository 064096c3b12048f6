"""Sweeps on a real SLURM: what a person starts ends in the store, whatever happens to single jobs.

Run by `make slurm-test`, which starts a cluster of one node.
"""

import os
import pickletools
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
    assert "submitted 12 stages and 12 runs (3 runs to a job)" in told
    assert f"ablate status {desk.sweep().name}" in told
    desk.until_idle()
    assert {s.state for s in desk.status().values()} == {"done"}
    assert list(published(desk.results).values()) == [1] * 12
    assert len(list((desk.results / "stages" / "sft").iterdir())) == 2, "one SFT for each seed"
    again = desk.submit(*grid)
    assert "12 in the store" in again
    assert "nothing to submit" in again


def test_rough_weather(desk, controller) -> None:
    """Twelve runs: one killed, one cancelled, one raises; YAML edited, controller restarted."""
    levels = desk.folder / "mine" / "objective"
    levels.mkdir(parents=True)
    mine = levels / "mine.yaml"
    text = "defaults: [dpo, _self_]\nname: mine\nbeta: 0.25\n"
    mine.write_text(text)
    names = [*OBJECTIVES[:5], "mine"]
    where = ["--config-dir", "mine"]
    desk.submit(*where, f"objective={','.join(names)}", "seed=0,1")
    folder, layout = desk.sweep(), Layout(desk.results)
    ids = {name: status.identity for name, status in desk.status().items()}
    jobs = submitted(folder)
    # edited while its job is queued: the job must not care
    mine.write_text(text.replace("0.25", "0.75"))
    # raises: what a run was frozen as is gone
    (folder / "runs" / f"{ids['ipo-1']}.json").unlink()
    subprocess.run(["scancel", jobs[f"run-{ids['simpo-0']}"]], check=True)
    controller("stop")
    controller("start")

    def running() -> bool:
        return claims.is_held(layout.claims / f"run-{ids['dpo-0']}")

    desk.until(running, say="the first run")
    owner = read_json(layout.claims / f"run-{ids['dpo-0']}" / "owner.json")
    os.kill(owner["pid"], signal.SIGKILL)
    desk.until_idle()

    found = desk.status()
    states = {name: status.state for name, status in found.items()}
    odd = {"dpo-0": "failed", "ipo-1": "failed", "simpo-0": "lost"}
    assert states == dict.fromkeys(ids, "done") | odd
    assert "killed by SIGKILL" in found["dpo-0"].reason
    assert "ipo-1" not in found["ipo-1"].reason
    assert found["ipo-1"].identity in found["ipo-1"].reason, "names the file that is gone"
    for seed in (0, 1):
        record = records.latest(layout, ids[f"mine-{seed}"])
        assert record.data["config"]["objective"]["beta"] == 0.25
    assert len(published(desk.results)) == 9
    told = desk.ablate("status", check=False)
    assert "9 done, 2 failed, 1 lost" in told
    assert "killed by SIGKILL" in told

    # the frozen run cannot be made up again by retry: the same command writes it anew
    mine.write_text(text)
    desk.submit(*where, f"objective={','.join(names)}", "seed=0,1")
    desk.until_idle()
    assert {status.state for status in desk.status().values()} == {"done"}
    assert list(published(desk.results).values()) == [1] * 12, "each exactly once"


def test_cancel_and_retry(desk) -> None:
    desk.submit("objective=dpo,ipo,simpo,kto")
    layout = Layout(desk.results)
    desk.until(lambda: any(layout.stages.glob("sft/*")), say="the SFT")
    assert "queued before" in desk.submit("objective=dpo,ipo,simpo,kto"), "nothing twice"
    assert "jobs cancelled" in desk.ablate("cancel")
    desk.until_idle()
    assert {status.state for status in desk.status().values()} == {"lost"}
    assert "4 lost" in desk.ablate("status", check=False)
    assert "submitted" in desk.ablate("retry")
    desk.until_idle()
    assert {status.state for status in desk.status().values()} == {"done"}
    assert list(published(desk.results).values()) == [1] * 4
    assert len(list(layout.stages.glob("sft/*"))) == 1, "what was published is kept"
    assert "nothing failed" in desk.ablate("retry")


def test_a_run_that_runs_out_of_time_is_queued_again_and_ends_with_the_same_weights(desk) -> None:
    """The limit is a minute, told half a minute ahead; the training takes about two."""
    long = ["objective=rpo_bwd", "training.epochs=400", "training.checkpoint_every=1200"]
    limits = "hydra.launcher.stages={run:{timeout_min:1,signal_delay_s:30}}"
    desk.submit(*long, limits, "hydra.launcher.max_num_timeout=30")
    layout = Layout(desk.results)
    desk.until(lambda: any(layout.partial.glob("*/step-*")), say="a training saved whole")
    desk.until_idle(900)
    (status,) = desk.status().values()
    assert status.state == "done", status
    whole = desk.folder / "undisturbed"
    desk.ablate(*SMALL, *long, f"results_dir={whole}", "runtime.threads=1", timeout=600)
    (first,) = records.records(layout)
    (second,) = records.records(Layout(whole))
    assert first.data["policy"]["weights"] == second.data["policy"]["weights"]
    assert first.data["metrics"] == second.data["metrics"]
    assert not list(layout.partial.iterdir()), "nothing is left of the interruption"


def test_a_stage_that_fails_fails_its_runs_with_one_cause_and_no_others(desk) -> None:
    """A context too short for the prompts fails the SFT that two of four runs need."""
    desk.submit("objective=dpo,ipo", "base_model.context_length=4,512")
    desk.until_idle()
    layout = Layout(desk.results)
    assert len(published(desk.results)) == 2
    failures = list(records.failures(layout))
    assert len(failures) == 2
    assert len({failure.data["reason"] for failure in failures}) == 1
    assert "SFT policy" in failures[0].data["reason"]
    told = desk.ablate("logs", failures[0].data["id"][:10])
    assert "context" in told


def test_what_can_never_start_is_told_and_cancelled(desk) -> None:
    """The node has two processors; a job of one node that asks for three is refused by sbatch."""
    told = desk.submit("objective=dpo", "hydra.launcher.cpus_per_task=3", check=False)
    assert "sbatch refuses" in told
    assert not scheduler.queue()


def test_nothing_but_data_is_left_and_it_is_private(desk) -> None:
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
