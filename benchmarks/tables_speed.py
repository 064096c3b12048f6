"""How fast a table of 10,000 runs with 10 million answers is, before and after `ablate compact`.

    python benchmarks/tables_speed.py

writes a store of made-up records (real files, published by the store's own functions), makes a
tested table of it in a process of its own, compacts it, and makes the table again. Seconds and the
largest memory of each process go to results/tables_speed.json. The bound is 2 s and 2 GiB for the
table of a compacted store, measured around the work (reading the store, the tests, the notes), with
imports told apart; on a machine with other work, read the seconds of the processor (`work_cpu_s`).
"""

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from ablate.config.compose import compose
from ablate.config.identity import digest
from ablate.results import TABLES, compact
from ablate.store import files
from ablate.store.layout import Layout
from ablate.store.records import SCHEMA
from ablate.store.tables import write_table

OUT = Path(__file__).parent / "results" / "tables_speed.json"
#: what the child process does, told its seconds apart
CHILD = """
import json, sys, time
start = time.perf_counter()
from ablate.analysis import Question, build
from ablate.results import load_study
imported, before = time.perf_counter(), time.process_time()
study = load_study(sys.argv[1])
loaded = time.perf_counter()
metrics = tuple(sys.argv[2].split(","))
table = build(study.frame, study.lacking, Question(
    rows=("objective",), cols=("num_responses",), metrics=metrics, baseline="dpo"))
assert len(table.comparisons) > 0 and len(table.runs) == len(study.frame)
done = time.perf_counter()
# getrusage would tell the parent's memory too
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({
    "runs": len(study.frame), "import_s": round(imported - start, 3),
    "load_s": round(loaded - imported, 3), "table_s": round(done - loaded, 3),
    "work_s": round(done - imported, 3), "work_cpu_s": round(time.process_time() - before, 3),
    "peak_mib": round(int(peak) / 1024)}))
"""
OBJECTIVES = ("dpo", "ipo", "kto", "simpo", "orpo", "cdpo", "hinge", "nca", "rpo_bwd", "rpo_sqloo")


def make_store(layout: Layout, runs: int, answers: int) -> None:
    """Writes records that differ in objective, K and seed, with random scores."""
    rng = np.random.default_rng(0)
    base = compose(["tracker=none"]).model_dump(mode="json")
    cells = [(o, k) for o in OBJECTIVES for k in (2, 4, 8, 16)]
    third = [answers // 4, answers // 2, answers - answers // 4 - answers // 2]
    split = np.repeat(["valid", "test", "ood"], third)
    prompts = np.array([f"{s}-{i:06d}" for i, s in enumerate(split)])
    texts = np.array([f"an answer of some words, number {i}" for i in range(answers)])
    fixed = {
        "split": split, "prompt_id": prompts, "sample": 0, "prompt": texts, "response": texts,
        "num_tokens": 9, "num_chars": 40, "truncated": False,
        "baseline_score": rng.normal(5, 1, answers).round(3), "baseline_response": texts,
    }  # fmt: skip
    for number in range(runs):
        seed, (objective, k) = number // len(cells), cells[number % len(cells)]
        config = copy.deepcopy(base)
        config["objective"]["name"], config["num_responses"]["k"] = objective, k
        config["seed"]["value"] = seed
        identity = digest({"number": number})
        scores = rng.normal(5, 1, answers).round(3)
        table = pd.DataFrame({**fixed, "judge_score": scores, "kl": np.abs(scores) / 5})
        estimate = {"se": 0.03, "low": 4.9, "high": 5.1, "n": int(third[1])}
        metrics = {
            name: {s: {**estimate, "mean": float(rng.normal(5, 0.1))} for s in ("valid", "test")}
            for name in ("reward", "reward_sft", "kl", "win_rate", "length", "truncated")
        }
        data = {
            "name": f"{objective} k={k} seed={seed}", "status": "done", "divergence": None,
            "config": config, "metrics": metrics, "reward": {"kind": "gold", "scale": 1.0},
            "stages": [{"role": "answers", "name": "answers", "id": digest([seed]), "result": {}}],
            "tokens_trained": 1000, "tokens_generated": 100, "device_seconds": 1.0,
            "started": time.time(), "finished": time.time(),
            "provenance": {"git": None, "versions": {"torch": "2"}, "host": "h", "cpu": "c"},
            "machine": {"device": "cpu", "threads": 1},
            "schema": SCHEMA, "id": identity, "revision": 1,
        }  # fmt: skip
        folder = layout.runs / identity / "1"
        folder.mkdir(parents=True)
        write_table(table, folder / "eval.parquet")
        # without flushing each to disk, which is not what is measured
        (folder / "record.json").write_text(json.dumps(data, sort_keys=True, indent=1) + "\n")
        names = ("eval.parquet", "record.json")
        entries = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": files.checksum(folder / name)}
            for name in names
        }
        (folder / files.MANIFEST).write_text(json.dumps(entries))


def table_of(root: Path, metrics: str) -> dict[str, float]:
    """Makes the table in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), metrics],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--answers", type=int, default=1000, help="per run")
    parser.add_argument("--uncompacted", action="store_true", help="time the store itself too")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    result: dict[str, object] = {
        "runs": args.runs, "answers": args.runs * args.answers,
        "python": platform.python_version(), "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder) / "store")
        started = time.perf_counter()
        make_store(layout, args.runs, args.answers)
        print(f"store written in {time.perf_counter() - started:.0f} s", flush=True)
        if args.uncompacted:
            result["uncompacted"] = table_of(layout.root, "reward/test")
        started = time.perf_counter()
        done = compact(layout, TABLES)
        result["compact_s"] = round(time.perf_counter() - started, 1)
        result["compact_mib"] = round(done.bytes / 2**20, 1)
        for name, metrics in (
            ("reward", "reward/test"),
            ("three_metrics", "reward/test,kl/test,win_rate/test"),
            ("from_answers", "reward_gain/test"),
        ):
            runs = [table_of(layout.root, metrics) for _ in range(3 if name == "reward" else 1)]
            result[name] = min(runs, key=lambda one: one["work_s"])
            print(name, json.dumps(result[name]), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
