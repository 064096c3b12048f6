"""What is handed to SLURM, read from the scripts that a small fake of it was given."""

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from submitit.core.utils import DelayedSubmission

from ablate.config.launcher import SlurmConfig, slurm_config
from ablate.config.levels import conf_dir
from ablate.errors import ConfigError
from ablate.launch.jobs import JOB_KINDS
from ablate.launch.slurm import submit, submitted
from ablate.stages.registry import KINDS
from fakeslurm import FakeSlurm
from smallrun import SMALL, run
from sweeps import sweep_of

Command = Callable[..., subprocess.CompletedProcess[str]]

#: setting → word, and the line of the script that it becomes
LINES = {
    "partition": ("gpu", "#SBATCH --partition=gpu"),
    "account": ("lab", "#SBATCH --account=lab"),
    "qos": ("high", "#SBATCH --qos=high"),
    "constraint": ("a100", "#SBATCH --constraint=a100"),
    "comment": ("study", "#SBATCH --comment=study"),
    "exclude": ("bad1", "#SBATCH --exclude=bad1"),
    "gres": ("'gpu:a100:2'", "#SBATCH --gres=gpu:a100:2"),
    "nodes": ("2", "#SBATCH --nodes=2"),
    "tasks_per_node": ("4", "#SBATCH --ntasks-per-node=4"),
    "gpus_per_node": ("4", "#SBATCH --gpus-per-node=4"),
    "cpus_per_task": ("3", "#SBATCH --cpus-per-task=3"),
    "mem_gb": ("1.5", "#SBATCH --mem=1536MB"),
    "timeout_min": ("90", "#SBATCH --time=90"),
    "signal_delay_s": ("33", "#SBATCH --signal=USR2@33"),
    "array_parallelism": ("1", "#SBATCH --array=0-1%1"),
    "setup": ("['module load cuda','export ONE=1']", "module load cuda\nexport ONE=1"),
    "srun_args": ("['--mpi=none']", "--mpi=none"),
    "additional_parameters": ("{reservation:mine}", "#SBATCH --reservation=mine"),
}
#: what decides how many jobs there are, or what happens later; each has a test below or elsewhere
ELSEWHERE = {
    "stages", "max_num_timeout", "max_array_size", "max_submit", "runs_per_job", "wait",
    "poll_seconds",
}  # fmt: skip


def level() -> dict[str, object]:
    plain = OmegaConf.to_container(OmegaConf.load(conf_dir() / "hydra/launcher/slurm.yaml"))
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items() if name != "_target_"}


def config(**changes: object) -> SlurmConfig:
    return slurm_config(level() | changes, [*KINDS, *JOB_KINDS])


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", fake.path)
    return fake


def test_every_setting_of_the_level_arrives_in_the_script(
    slurm: FakeSlurm, ablate: Command, tmp_path: Path
) -> None:
    assert LINES.keys() | ELSEWHERE == level().keys(), "a new setting has its line here"
    words = [f"hydra.launcher.{name}={word}" for name, (word, _) in LINES.items()]
    words += ["hydra.launcher.stages={labels:{mem_gb:3,partition:cpu,gres:null}}"]
    words += ["hydra.launcher.max_array_size=2", "hydra.launcher.max_num_timeout=7"]
    store = tmp_path / "store"
    arms = ["objective=dpo,ipo,simpo", "reward=explicit", f"results_dir={store}"]
    done = ablate(*SMALL, *words, *arms, "-m", "hydra/launcher=slurm")
    assert done.returncode == 0, done.stderr
    scripts = slurm.scripts()
    kinds: dict[str, list[str]] = {}
    for text in scripts.values():
        (name,) = re.findall(r"^#SBATCH --job-name=ablate-\w+-(\w+)$", text, re.M)
        kinds.setdefault(name, []).append(text)
    pair, single = kinds["run"]
    for name, (_, line) in LINES.items():
        assert line in pair, name
        assert (line in single) == (name != "array_parallelism"), name
    assert "--array" not in single, "three runs are an array of two, and one more"
    assert "--kill-on-bad-exit=1" in pair
    # every job waits for those of its stages, in order only
    earlier = "|".join(number for number, text in scripts.items() if "-run\n" not in text)
    assert re.search(rf"^#SBATCH --dependency=afterany(:({earlier}))+$", pair, re.M)
    # what trains nothing is one task, and a kind may ask for other resources
    for text in kinds["labels"]:
        assert "#SBATCH --mem=3072MB" in text
        assert "#SBATCH --partition=cpu" in text
        assert "--gres" not in text
    for text in (*kinds["labels"], *kinds["pool"]):
        assert "#SBATCH --nodes=1" in text
        assert "#SBATCH --ntasks-per-node=1" in text
        assert "--kill-on-bad-exit" not in text
    for text in kinds["reward_model"]:
        assert "#SBATCH --ntasks-per-node=4" in text
        assert "--kill-on-bad-exit=1" in text
    for text in scripts.values():
        assert "#SBATCH --account=lab" in text
        assert text.index("module load cuda") < text.index("srun")
    # how often a job may be queued again is the job's own to count
    pickles = [DelayedSubmission.load(path) for path in store.rglob("*_submitted.pkl")]
    assert {call.args[-1] for call in pickles} == {7}
    assert sum(len(call.args[2]) for call in pickles) == len(submitted(*store.glob("sweeps/*")))


def test_what_the_site_decides_is_asked_for_by_nobody(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(sweep_of(tmp_path / "store", ["objective=dpo"]), config())
    for text in slurm.scripts().values():
        assert not re.search(r"--(partition|account|qos|constraint|gres|mem|gpus-per-node)=", text)


def test_jobs_of_other_sweeps_count_to_the_limit(slurm: FakeSlurm, tmp_path: Path) -> None:
    arms = [[f"objective={name}"] for name in ("dpo", "ipo", "simpo", "kto")]
    first = submit(sweep_of(tmp_path / "first", *arms), config())
    assert (first.runs, first.runs_per_job) == (4, 1)
    slurm.queue("7|RUNNING|None", "9_[3]|PENDING|Priority")
    # room for two of the jobs of four runs
    second = sweep_of(tmp_path / "second", *arms)
    assert submit(second, config(max_submit=first.stages + 2 + 2)).runs_per_job == 2
    assert len(set(submitted(second.folder).values())) == first.stages + 2
    third = sweep_of(tmp_path / "third", *arms)
    told = f"{first.stages} stages and your 2 jobs in the queue leave no room"
    with pytest.raises(ConfigError, match=told):
        submit(third, config(max_submit=first.stages + 2))
    assert submitted(third.folder) == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["objective=dpo,ipo", "hydra.launcher.workers=0"], "hydra.launcher.workers=0 must be"),
        (["objective=dpo,ipo", "hydra/launcher=slurm", "hydra.launcher.tasks_per_node=2",
          "runtime.processes=4"], "runtime.processes=4, but a job has 2 tasks"),
        (["objective=dpo,ipo", "hydra/launcher=slurm", "hydra.launcher.stages={nothing:{nodes:2}}"],
         "stages names nothing, which is no kind of stage"),
        (["objective=dpo,ipo", "results_dir=a,b"], "one results_dir, not to a, b"),
        (["+sweep=objectives", "objective=dpo", "tune.trials=2", "seed=0", "tune.by=kl/valid"],
         "tune.by=kl/valid: trials are compared by"),
    ],
    ids=["workers", "tasks", "stages", "folders", "tuning"],
)  # fmt: skip
def test_a_plan_refuses_what_the_command_refuses(
    slurm: FakeSlurm, ablate: Command, tmp_path: Path, words: list[str], told: str
) -> None:
    planned = ablate("plan", *SMALL, *words, "-m")
    assert planned.returncode == 1
    assert "distinct runs" in planned.stdout, "the rest is planned"
    assert told in " ".join(planned.stdout[planned.stdout.index("refused") :].split())
    assert list((tmp_path / "cwd").iterdir()) == []
    done = ablate(*SMALL, *words, "-m")
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert slurm.scripts() == {}


def test_a_plan_for_slurm_needs_it_and_submits_nothing(
    slurm: FakeSlurm, ablate: Command, tmp_path: Path
) -> None:
    words = [*SMALL, "objective=dpo,ipo", "-m", "hydra/launcher=slurm"]
    planned = ablate("plan", *words)
    assert planned.returncode == 0, planned.stdout
    assert "2 distinct runs" in planned.stdout
    assert slurm.scripts() == {}
    assert list((tmp_path / "cwd").iterdir()) == []
    (slurm.bin / "sbatch").unlink()
    planned = ablate("plan", *words, env={"PATH": str(slurm.bin)})
    assert planned.returncode == 1
    assert "needs sbatch and squeue" in planned.stdout


def test_waiting_shows_progress_and_ends_with_the_table(
    slurm: FakeSlurm, tmp_path: Path, run_ablate: Command
) -> None:
    """One run is done while its job runs, the controller is away for a while, the other is lost."""
    store = tmp_path / "store"
    reward = run(store, "objective=dpo").record.data["metrics"]["reward"]["test"]["mean"]
    done = store / "runs"
    done.rename(tmp_path / "runs")
    shutil.rmtree(store / "attempts", ignore_errors=True)
    slurm.queue("100_0|PENDING|Priority", "100_1|PENDING|Priority")

    def weather() -> None:
        while not slurm.scripts():
            time.sleep(0.1)
        slurm.until_asked()
        slurm.queue("100_0|RUNNING|None", "100_1|RUNNING|None")
        slurm.until_asked()
        slurm.down()
        slurm.until_asked()
        (tmp_path / "runs").rename(done)
        slurm.up()
        slurm.until_asked()
        slurm.queue("100_1|RUNNING|None")
        slurm.until_asked()
        slurm.queue()

    change = threading.Thread(target=weather)
    change.start()
    waits = ["hydra.launcher.wait=true", "hydra.launcher.poll_seconds=0.2"]
    told = run_ablate(
        tmp_path, *SMALL, "objective=dpo,ipo", f"results_dir={store}", *waits, "-m",
        "hydra/launcher=slurm", env={"PATH": os.environ["PATH"], "COLUMNS": "160"},
    )  # fmt: skip
    change.join()
    assert told.returncode == 1, "one of the runs was lost"
    assert "submitted 0 stages and 2 runs as job 100" in told.stdout
    lines = ["2 queued", "2 running", "asked again every 0.2 s", "1 done, 1 running",
             "1 done, 1 lost"]  # fmt: skip
    places = [told.stdout.index(line) for line in lines]
    assert places == sorted(places)
    table = told.stdout[places[-1] :]
    assert "reward, test" in table
    assert f"{reward:.3f}" in table
    assert "job 100_1 ended without a word" in table
