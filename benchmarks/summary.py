"""The table of benchmarks in README.md, from benchmarks/results/*.json.

python benchmarks/summary.py            prints it
python benchmarks/summary.py --write    puts it between the marks in README.md
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NAMES = ("training_pairs", "training_responses", "training_limit", "cost", "training_overhead",
         "training_gpu")  # fmt: skip
VOCABULARY = "4,096"
BEGIN, END = "<!-- begin: benchmarks -->", "<!-- end: benchmarks -->"


def main() -> None:
    """Prints the table or writes it."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--write", action="store_true")
    table = summary()
    if not flags.parse_args().write:
        print(table)
        return
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def summary() -> str:
    """Markdown: what was measured, its figure with the spread, and the target."""
    lines = ["| measured | figure | target |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | {target} |" for what, figure, target in _rows()]
    return "\n".join([*lines, "", *_machines()])


def _machines() -> list[str]:
    """Where each file's figures come from, and how busy it was there."""
    lines = []
    for name in NAMES:
        found = _read(name)
        if found is None:
            lines.append(f"- `{name}`: not measured")
            continue
        machine, model = found["machine"], found.get("model")
        where = machine["gpu"] or machine.get("cpu") or "no CUDA device was there"
        parts = [f"- `{name}`: {found['date']}, {where}"]
        if "cpu" in machine:
            parts.append(f"{machine['threads']} of {machine['cores']} cores")
            parts.append(f"load of other work before {machine['load_before'][0]}")
        if model:
            parts.append(f"width {model['width']}, {model['layers']} layers, {VOCABULARY} words")
        lines.append(", ".join([*parts, f"torch {found['versions']['torch']}"]))
    sweeps, tables, sampling = (_read(f"{name}_speed") for name in ("sweeps", "tables", "sampling"))
    if sweeps:
        loads = ", ".join(f"{name} {found['load_before']}" for name, found in sweeps.items())
        dates = max(found["date"] for found in sweeps.values())
        lines.append(f"- `sweeps_speed`: {dates}, 2 cores, load before: {loads}")
    if tables:
        lines.append(f"- `tables_speed`: 2 cores, load before {tables['load_before']:.1f}")
    if sampling:
        load = sampling["machine"]["load_before"]
        lines.append(f"- `sampling_speed`: {sampling['date']}, 2 cores, load before {load}")
    return lines


def _rows() -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    pairs = _read("training_pairs")
    for row in pairs["rows"] if pairs else []:
        ratio = row["prompt"] / row["response"]
        shape = f"prompt {row['prompt']}, response {row['response']}, {row['lengths']} lengths"
        target = "1.4" if ratio == 1 else "2"
        rows += [
            (
                f"pairs: times as fast as TRL's `DPOTrainer`, {shape}",
                _told(row["times_faster_precomputed"]),
                target,
            ),
            (
                "the same, both with the reference's log-probs to compute",
                _told(row["times_faster_with_reference"]),
                "1",
            ),
        ]
    responses = _read("training_responses")
    for row in responses["rows"] if responses else []:
        target = responses["targets"]["times_faster"].get(str(row["k"]), "")  # type: ignore[index]
        rows.append(
            (
                f"K = {row['k']}: times as fast as K flattened sequences, prompt 128, response "
                f"32, {row['lengths']} lengths",
                _told(row["times_faster"]),
                str(target),
            )
        )
        if "memory_share" in row:
            rows.append(
                (
                    f"K = {row['k']}: their peak memory that is taken",
                    f"{row['memory_share']:.2f}",
                    "0.5" if row["k"] == 8 else "",
                )
            )
    limit = _read("training_limit")
    for row in limit["rows"] if limit else []:
        rows.append(
            (
                f"share of a matrix product's rate, width {limit['model']['width']}, "  # type: ignore[index]
                f"K = {row['k']}, prompt {row['prompt']}, response {row['response']}",
                _told(row["share"]),
                "0.6",
            )
        )
    overhead = _read("training_overhead")
    if overhead:
        rows.append(
            (
                "seconds to the first optimizer step, beyond imports, stages warm",
                _told(overhead["beyond_imports_seconds"]),
                "2",
            )
        )
        for k, found in overhead["small"].items():
            rows.append(
                (
                    f"share of a step of `small` outside forward, backward and optimizer, K = {k}",
                    _told(found["share_outside"], 3),
                    "0.05",
                )
            )
    gpu = _read("training_gpu")
    for name, found in gpu["models"].items() if gpu else []:
        limit, paired = found["limit"], found["pairs"]
        rows.append(
            (
                f"GPU, {name}: share of a bfloat16 product's rate, K = 8, prompt 1024, response "
                "256",
                "not measured" if limit is None else _told(limit["share"]),
                "0.5",
            )
        )
        best = None if paired is None else paired[0]
        rows.append(
            (
                f"GPU, {name}: pairs, times as fast as TRL's best",
                "not measured" if best is None else _told(best["times_faster"]),
                "2",
            )
        )
    return rows + _other_rows()


def _other_rows() -> list[tuple[str, str, str]]:
    """Sweeps, tables and sampling."""
    rows: list[tuple[str, str, str]] = []
    sweeps = _read("sweeps_speed")
    if sweeps:
        again = sweeps["again"]
        rows += [
            (
                "twelve runs in one sweep: processor time over that of twelve commands with "
                "nothing shared",
                _told(_spread(sweeps["grid"]["ratios"])),
                "0.33",
            ),
            (
                "two local workers: runs per hour over one worker's",
                _told(_spread(sweeps["pool"]["ratios"])),
                "1.6",
            ),
            (
                "a finished sweep of 1,000 runs again, seconds",
                _told(_spread(again["repeat_seconds"]), 1),
                "10",
            ),
            ("its `plan`, seconds", _told(_spread(again["plan_seconds"]), 1), "10"),
            (
                "`plan` of 1,000 runs in an empty store, seconds",
                _told(_spread(again["plan_empty_seconds"]), 1),
                "10",
            ),
            (
                "`status` of 10,000 records, seconds",
                _told(_spread(sweeps["status"]["seconds"]), 1),
                "2",
            ),
        ]
    tables = _read("tables_speed")
    if tables:
        rows.append(
            (
                "a table from 10,000 runs with 10 million answers (compacted), seconds beyond "
                f"imports; {tables['reward']['peak_mib']} MiB",
                f"{tables['reward']['work_s']:.1f}",
                "2",
            )
        )
    sampling = _read("sampling_speed")
    if sampling:
        rows.append(
            (
                "the default world's pool: responses per second on two cores",
                str(sampling["settings"][0]["per_second"]),
                str(sampling["target_per_second"]),
            )
        )
    return rows


def _spread(figures: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(figures), "lowest": min(figures), "highest": max(figures),
    }  # fmt: skip


def _told(figure: dict[str, float], digits: int = 2) -> str:
    low, high = figure["lowest"], figure["highest"]
    return f"{figure['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    main()
