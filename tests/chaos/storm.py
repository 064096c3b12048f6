"""A local sweep under two competing launchers, with processes killed at random or at named points.

`make chaos` kills 200 at random and writes benchmarks/results/chaos.json:

    PYTHONPATH=tests python tests/chaos/storm.py --kills 200
"""

import argparse
import contextlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from ablate.store import files, records
from ablate.store.layout import Layout
from smallrun import SMALL

#: six runs on two chains of shared stages; trainings of twelve steps with a checkpoint every third
ARMS = ["objective=dpo,rpo_bwd,simpo", "seed=0,1"]
WORDS = [
    *SMALL, "training.epochs=4", "training.checkpoint_every=3",
    "hydra.launcher.workers=2", "hydra.launcher.max_restarts=1000",
]  # fmt: skip
RUNS = 6
LAUNCHERS = 2
#: in the time that an undisturbed sweep takes, however fast the machine is now
KILLS_PER_SWEEP = 30
RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "chaos.json"


class Storm:
    """One results folder and the launchers that work on it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.layout = Layout(folder / "results")
        self.environment = environment
        self.launchers: list[subprocess.Popen[bytes]] = []
        self.starts = 0
        #: a short path, as sockets need; the killed leave things in it
        self.place = tempfile.TemporaryDirectory(prefix="storm-", ignore_cleanup_errors=True)
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """A launcher of the sweep; what it prints is kept beside the results."""
        self.starts += 1
        command = [sys.executable, "-m", "ablate", *ARMS, *WORDS,
                   f"results_dir={self.layout.root}", *more, "-m"]  # fmt: skip
        with open(self.folder / f"launcher-{self.starts:03}.log", "wb") as log:
            return subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, "TMPDIR": self.place.name, "COLUMNS": "200"},
            )  # fmt: skip

    def ablate(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command on the results folder."""
        return subprocess.run(
            [sys.executable, "-m", "ablate", *words, f"results_dir={self.layout.root}"],
            cwd=self.folder, capture_output=True, text=True, check=False,
            env={**os.environ, **self.environment, "COLUMNS": "200"},
        )  # fmt: skip

    def rage(self, disturb: Callable[["Storm"], None], seconds: float = 1500) -> None:
        """Keeps two launchers going until both have ended well; `disturb` is called all the time.

        Raises:
            AssertionError: they did not within `seconds`, or said that a run failed for a reason.
        """
        end = time.monotonic() + seconds
        self.launchers = [self.start() for _ in range(LAUNCHERS)]
        try:
            while True:
                for place, launcher in enumerate(self.launchers):
                    if launcher.poll() not in (None, 0):
                        self.launchers[place] = self.start()
                if all(launcher.poll() == 0 for launcher in self.launchers):
                    return
                assert time.monotonic() < end, self.told()
                disturb(self)
                time.sleep(0.02)
        finally:
            for process in self.family():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            for launcher in self.launchers:
                launcher.wait()

    def family(self) -> list[psutil.Process]:
        """The launchers with all they started."""
        found = []
        for launcher in self.launchers:
            with contextlib.suppress(psutil.NoSuchProcess):
                main = psutil.Process(launcher.pid)
                found += [main, *main.children(recursive=True)]
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes of jobs: the fork servers' children."""
        mine = {launcher.pid for launcher in self.launchers}
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid not in mine and process.ppid() not in mine:
                    found.append(process)
        return found

    def told(self) -> str:
        """The ends of what launchers and jobs printed."""
        logs = sorted(self.folder.glob("launcher-*.log"))[-3:]
        logs += sorted(self.layout.sweeps.glob("*/logs/*.log"))
        return "\n".join(f"{path.name}: {path.read_text()[-600:]}" for path in logs)

    def trainers(self) -> Iterator[int]:
        """Process ids of the jobs whose training of a policy is under way."""
        for path in self.layout.scratch.glob("policy-*@*/work/.trainer-*"):
            yield int(path.parents[1].name.split("@")[1].rpartition(".")[2])


def harvest(storm: Storm) -> dict[str, Any]:
    """What a sweep left, without what differs between any two sweeps (times, places).

    Raises:
        AssertionError: a run that is not there exactly once, or a checksum that does not hold.
    """
    layout = storm.layout
    for path in [*layout.runs.glob("*/*"), *layout.stages.glob("*/*")]:
        if ".damaged-" not in path.name:
            assert files.damage(path) is None, (path, files.damage(path))
    found: dict[str, Any] = {}
    for record in records.records(layout):
        revisions = [path.name for path in record.path.parent.iterdir()]
        assert revisions == ["1"], (record.identity, revisions)
        steps = pd.read_parquet(record.path / "train.parquet")
        found[record.identity] = {
            "status": record.data["status"],
            "weights": record.data["policy"]["weights"],
            "metrics": record.data["metrics"],
            "answers": files.checksum(record.path / "eval.parquet"),
            "steps": steps.drop(columns="seconds").to_json(double_precision=15),
            "stages": [stage["id"] for stage in record.data["stages"]],
        }
    assert len(found) == RUNS, storm.told()
    table = storm.ablate("table", "--rows", "objective")
    assert table.returncode == 0, table.stderr
    found["table"] = table.stdout
    return found


def litter(storm: Storm) -> list[str]:
    """What is left in the working places of a store that nobody uses any more.

    An attempt that tells why it failed is no litter, whether or not another one succeeded.
    """
    layout = storm.layout
    return [
        str(path.relative_to(layout.root))
        for folder in (layout.claims, layout.scratch, layout.partial, layout.attempts)
        if folder.is_dir()
        for path in folder.iterdir()
        if not list(path.glob("*/failure.json"))
    ]


def undisturbed(folder: Path) -> dict[str, Any]:
    """The harvest of one launcher that nobody disturbs."""
    calm = Storm(folder)
    launcher = calm.start()
    assert launcher.wait(900) == 0, calm.told()
    return harvest(calm)


class Lightning:
    """Kills at random: mostly jobs, now and then a launcher or its fork server.

    Args:
        pace: mean seconds between kills while jobs are at work. Far under what a job takes, none
            would ever end.
    """

    def __init__(self, kills: int, seed: int, pace: float) -> None:
        self.left, self.pace = kills, pace
        self.random = random.Random(seed)
        self.struck: Counter[str] = Counter()
        self._next = 0.0

    def __call__(self, storm: Storm) -> None:
        if not self.left or time.monotonic() < self._next:
            return
        jobs = storm.workers()
        if not jobs:
            return  # launchers that only just start
        if self.random.random() < 0.85:
            kind, victim = "job", self.random.choice(jobs)
        else:
            rest = [p for p in storm.family() if p not in jobs]
            victim = self.random.choice(rest)
            mains = {launcher.pid for launcher in storm.launchers}
            kind = "launcher" if victim.pid in mains else "helper of a launcher"
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
            self.left -= 1
            self.struck[kind] += 1
        self._next = time.monotonic() + self.random.expovariate(1 / self.pace)


def strike(folder: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """Sweeps under random kills, as many sweeps as it takes; each equals the undisturbed one."""
    began = time.monotonic()
    calm = undisturbed(folder / "calm")
    lightning = Lightning(kills, seed, (time.monotonic() - began) / KILLS_PER_SWEEP)
    sweeps = starts = 0
    while lightning.left:
        sweeps += 1
        storm = Storm(folder / f"storm-{sweeps}")
        storm.rage(lightning)
        assert harvest(storm) == calm
        starts += storm.starts
        print(f"sweep {sweeps}: {kills - lightning.left} kills so far", flush=True)
    return {
        "kills": dict(sorted(lightning.struck.items())),
        "sweeps": sweeps,
        "runs_per_sweep": RUNS,
        "launchers_started": starts,
        "seconds": round(time.monotonic() - began),
        "every_run_once": True,
        "checksums_hold": True,
        "equal_to_undisturbed": True,
    }


def main() -> None:
    """Runs the storm and writes what came of it."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--kills", type=int, default=200)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()
    with tempfile.TemporaryDirectory(prefix="ablate-chaos-") as folder:
        found = strike(Path(folder), args.kills, args.seed)
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    found = {
        "what": "processes killed by SIGKILL at random over local sweeps with two launchers",
        **found,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {cpu}, {platform.system()}, shared with other work",
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
