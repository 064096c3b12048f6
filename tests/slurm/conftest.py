"""The real SLURM of `make slurm-test`; without it these tests are skipped and say why."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ablate.launch import scheduler
from ablate.launch.status import RunStatus, sweep_status
from smallrun import SMALL

HERE = Path(__file__).parent
CLUSTER = os.environ.get("ABLATE_TEST_SLURM")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CLUSTER:
        return
    reason = "needs a SLURM of its own: `make slurm-test` starts one on this machine"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


class Desk:
    """A person at a login node: a folder, the command line, and the queue."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"

    def ablate(self, *words: str, check: bool = True, timeout: float = 300) -> str:
        done = subprocess.run(
            ["ablate", *words], cwd=self.folder, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, *words: str, check: bool = True) -> str:
        return self.ablate("-m", "hydra/launcher=slurm", *SMALL, *words, check=check)

    def stock(self, stock: Path, *without: str) -> None:
        """Begins with the stages of runs that were made before, but for some kinds."""
        left_out = shutil.ignore_patterns("policy", "evaluation", *without)
        shutil.copytree(stock / "stages", self.results / "stages", ignore=left_out)

    def sweep(self) -> Path:
        """The newest sweep's folder."""
        found = (self.results / "sweeps").glob("*/sweep.json")
        return max(found, key=lambda path: path.stat().st_mtime).parent

    def status(self) -> dict[str, RunStatus]:
        """By objective (the first word of a run's name), seeds apart."""
        words = [(status.name.split(), status) for status in sweep_status(self.sweep())]
        return {f"{name[0]}-{name[-1].removeprefix('seed=')}": status for name, status in words}

    def until(self, done, seconds: float = 600, say: str = "") -> None:
        """Waits for a condition; shows how things stand when it never comes."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                told = {name: (s.state, s.reason) for name, s in self.status().items()}
                logs = "\n".join(
                    path.read_text()[-800:] for path in self.sweep().glob("slurm/*/*_log.err")
                )
                raise AssertionError(f"waited {seconds} s for {say}: {told}\n{logs}")
            time.sleep(0.5)

    def until_idle(self, seconds: float = 600) -> None:
        self.until(lambda: not scheduler.queue(), seconds, "an empty queue")


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run with the judge's rewards, and of one with a learnt reward."""
    folder = tmp_path_factory.mktemp("stock")
    for words in ([], ["reward=explicit"]):
        command = ["ablate", *SMALL, *words, f"results_dir={folder}"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=300)
    return folder


@pytest.fixture
def desk(tmp_path: Path):
    # jobs write below the folder as the same user; other tests' jobs are gone
    scheduler.cancel(scheduler.queue())
    place = Desk(tmp_path)
    place.until_idle(60)
    yield place
    scheduler.cancel(scheduler.queue())


@pytest.fixture
def controller():
    """Stops and starts the cluster's controller."""

    def act(word: str) -> None:
        subprocess.run([str(HERE / "cluster.sh"), f"{word}-controller", str(CLUSTER)], check=True)

    return act
