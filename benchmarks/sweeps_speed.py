"""What does a sweep cost beyond its runs, and what does sharing save?

Four claims, each measured by whole commands in processes of their own:

- grid: twelve runs through one `-m` take at most a third of the processor time of twelve separate
  cold commands with nothing shared (each has an empty store);
- pool: two workers finish at least 1.6 times as many runs per hour as one, on two cores;
- again: a finished sweep of 1,000 runs is found finished in under 10 s, and planned in under 10 s;
- status: 10,000 records are told in under 2 s.

The records of the last two are copies of one real record under the identities of the planned runs.
Ways alternate, medians are told. Prints a table and writes benchmarks/results/sweeps_speed.json:

    python benchmarks/sweeps_speed.py --only grid pool again status --rounds 3
"""

import argparse
import contextlib
import ctypes
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablate.config.compose import hydra_session
from ablate.config.expand import expand
from ablate.launch.sweep import freeze, prepare
from ablate.store import files, records
from ablate.store.layout import Layout

#: of Linux's prctl
PR_SET_CHILD_SUBREAPER = 36
RESULT = Path(__file__).resolve().parent / "results" / "sweeps_speed.json"
#: a small run: what is compared is the harness, not the training
SMALL = [
    "dataset.sizes.sft=1024", "dataset.sizes.train=256", "dataset.sizes.valid=32",
    "dataset.sizes.test=64", "dataset.sizes.ood=32", "dataset.pool.num_responses=4",
    "base_model.sft.steps=100", "training.batch_size=32", "evaluation.num_valid=32",
    "evaluation.num_test=64", "evaluation.num_ood=32", "tracker=none",
]  # fmt: skip
OBJECTIVES, SIZES = ("dpo", "simpo", "rpo_bwd"), (2, 4)
SEEDS = (0, 1)
POOL_SEEDS = "seed=range(0,8)"
THOUSAND = [
    "objective=dpo,simpo,rpo_bwd,rpo_sqloo,kto", "num_responses=2,4", "training.lr=1e-4,3e-4",
    "seed=range(0,50)", *SMALL,
]  # fmt: skip


def adopt_orphans() -> None:
    """Lets this process wait for descendants whose parents ended: the server that forks runs.

    Without it their processor time would be counted nowhere.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise SystemExit(f"prctl: {os.strerror(ctypes.get_errno())}")


def command(store: Path, *words: str) -> tuple[float, float]:
    """Seconds by the clock and of the processor (all descendants included) of one command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ablate", *words, f"results_dir={store}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}\n{done.stderr}")
    clock = time.perf_counter() - start
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return clock, spent


def grid(folder: Path, rounds: int) -> dict[str, Any]:
    """One `-m` against as many cold commands."""
    words = [f"objective={','.join(OBJECTIVES)}", f"num_responses={','.join(map(str, SIZES))}",
             f"seed={','.join(map(str, SEEDS))}", *SMALL]  # fmt: skip
    together, apart = [], []
    for number in range(rounds):
        together.append(command(folder / f"together-{number}", "-m", *words)[1])
        alone = 0.0
        for objective in OBJECTIVES:
            for k in SIZES:
                for seed in SEEDS:
                    store = folder / f"apart-{number}-{objective}-{k}-{seed}"
                    one = [f"objective={objective}", f"num_responses={k}", f"seed={seed}"]
                    alone += command(store, *one, *SMALL, "runtime.threads=1")[1]
        apart.append(alone)
    ratios = [a / b for a, b in zip(together, apart, strict=True)]
    return {
        "processor_seconds_together": together, "processor_seconds_apart": apart,
        "ratio": statistics.median(ratios), "ratios": ratios, "target": "at most 0.333",
    }  # fmt: skip


def pool(folder: Path, rounds: int) -> dict[str, Any]:
    """Two workers against one, each from a store that holds the shared stages."""
    # enough runs that starting, some ten seconds of either, is not most of what is measured
    words = ["objective=dpo,simpo,rpo_bwd,rpo_sqloo", POOL_SEEDS, *SMALL, "runtime.threads=1"]
    warm = folder / "warm"
    command(warm, "-m", "objective=ipo", POOL_SEEDS, *SMALL)
    times: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for workers, taken in times.items():
            store = folder / f"pool-{number}-{workers}"
            shutil.copytree(warm, store)
            taken.append(command(store, "-m", f"hydra.launcher.workers={workers}", *words)[0])
    ratios = [one / two for one, two in zip(times[1], times[2], strict=True)]
    return {
        "seconds_one_worker": times[1], "seconds_two_workers": times[2],
        "ratio": statistics.median(ratios), "ratios": ratios, "target": "at least 1.6",
    }  # fmt: skip


def copied(folder: Path, words: list[str]) -> Path:
    """A store in which every run of a command line has a record: copies of a real one."""
    store = folder / "copied"
    command(store, *SMALL, "seed=90000")
    layout = Layout(store)
    source = next(records.records(layout))
    with hydra_session() as hydra:
        found = expand(hydra.config_loader, [*words, f"results_dir={store}"])
    sweep = prepare(found)
    for identity, planned in sweep.plans.items():
        target = layout.runs / identity / "1"
        shutil.copytree(source.path, target)
        config = planned.run.model_dump(mode="json")
        files.write_json(target / "record.json", {**source.data, "id": identity, "config": config})
        files.write_manifest(target)
    freeze(sweep, words, "local", {"workers": None})
    return store


def again(folder: Path, rounds: int) -> dict[str, Any]:
    """A finished sweep of 1,000 runs, repeated and planned."""
    store = copied(folder, THOUSAND)
    repeated = [command(store, "-m", *THOUSAND) for _ in range(rounds)]
    planned = [command(store, "plan", "-m", *THOUSAND) for _ in range(rounds)]
    empty = [command(folder / "nothing", "plan", "-m", *THOUSAND) for _ in range(rounds)]
    result: dict[str, Any] = {"runs": 1000, "target": "under 10 s each"}
    for name, taken in (("repeat", repeated), ("plan", planned), ("plan_empty", empty)):
        result[f"{name}_seconds"] = [clock for clock, _ in taken]
        result[f"{name}_processor"] = [spent for _, spent in taken]
        result[name] = statistics.median(clock for clock, _ in taken)
    return result


def status(folder: Path, rounds: int) -> dict[str, Any]:
    """`ablate status` of a sweep of 10,000 runs that all have records."""
    words = [word.replace("range(0,50)", "range(0,500)") for word in THOUSAND]
    store = copied(folder, words)
    taken = [command(store, "status") for _ in range(rounds)]
    return {
        "runs": 10_000, "seconds": [clock for clock, _ in taken],
        "processor": [spent for _, spent in taken],
        "median": statistics.median(clock for clock, _ in taken), "target": "under 2 s",
    }  # fmt: skip


CLAIMS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "grid": grid, "pool": pool, "again": again, "status": status,
}  # fmt: skip


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--only", nargs="+", choices=list(CLAIMS), default=list(CLAIMS))
    flags.add_argument("--rounds", type=int, default=3)
    args = flags.parse_args()
    adopt_orphans()
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in args.only:
        with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
            load = os.getloadavg()[0]
            found = CLAIMS[name](Path(folder), args.rounds)
        machine = (
            f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        )
        known[name] = {
            **found, "machine": machine, "load_before": round(load, 1),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        }  # fmt: skip
        shown = {k: v for k, v in found.items() if not isinstance(v, list)}
        print(name, ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
                              for k, v in shown.items()))  # fmt: skip
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
