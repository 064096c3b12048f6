"""The README tells what benchmarks/results hold, and every training benchmark is one command."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_readmes_table_is_the_results() -> None:
    spec = importlib.util.spec_from_file_location("summary", ROOT / "benchmarks" / "summary.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = readme.partition(module.BEGIN)[2].partition(module.END)[0].strip()
    assert told == module.summary(), "python benchmarks/summary.py --write"


def test_make_bench_runs_every_training_benchmark() -> None:
    listed = re.search(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("training_*.py")}
    assert {f"training_{name}" for name in listed[1].split()} == scripts
