"""The floors of the house: a module imports only from floors below its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"

FLOORS = [
    {"errors", "preemption", "printed"},
    {"config", "store", "metrics"},
    {"groups", "objectives"},
    {"trl_compat"},
    {"models", "datasets"},
    {"rewards", "sampling"},
    {"training", "evaluation"},
    {"stages"},
    {"launch"},
    {"results"},
    {"analysis"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FREE_OF_TORCH = ["cli.main", "cli.ls",
                 "cli.table_command", "cli.compare", "cli.effects", "cli.show",
                 "cli.help", "cli.run", "cli.sweep", "config.run",
                 "config.compose", "config.expand", "config.legality", "store.records",
                 "store.stages", "metrics", "results", "analysis", "launch.local",
                 "launch.slurm", "launch.node", "launch.status",
                 "stages.graph", "stages.complete", "datasets", "sampling.select",
                 "evaluation.judges", "store.verdicts"]  # fmt: skip


def rooms_imported(path: Path) -> set[str]:
    """The rooms of `ablate` that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "ablate":
                names = [f"ablate.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("ablate.")}
    return found & FLOOR.keys()


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_a_room_imports_only_from_floors_below(room: str) -> None:
    base = SOURCE / "ablate" / room
    files = list(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    assert files
    for path in files:
        above = {r for r in rooms_imported(path) if FLOOR[r] >= FLOOR[room] and r != room}
        same_floor = {r for r in above if FLOOR[r] == FLOOR[room]}
        assert not above - same_floor, f"{path} reaches up to {above}"


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in (SOURCE / "ablate").iterdir()
             if path.suffix == ".py" or (path / "__init__.py").exists()}  # fmt: skip
    assert rooms - {"__init__", "__main__"} == FLOOR.keys()


def test_rooms_that_plan_and_read_start_without_torch() -> None:
    imports = "\n".join(f"import ablate.{name}" for name in FREE_OF_TORCH)
    code = f"{imports}\nimport sys\nassert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
