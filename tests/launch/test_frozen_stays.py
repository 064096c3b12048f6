"""What runs is what was frozen: another launch of the same runs rewrites nothing that counts."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ablate.config.compose import compose
from ablate.config.expand import Expansion
from ablate.launch.launches import launching
from ablate.launch.pools import at_work
from ablate.launch.sweep import Sweep, freeze, prepare
from ablate.results.sweeps import analysis_of, commands_of, copy_sweeps, load_study, names
from ablate.store import files, records
from ablate.store.layout import Layout
from ablate.store.sweeps import read_sweep
from smallrun import SMALL

LOCAL = {"workers": 1, "max_restarts": 0}
MARGIN = ["+sweep=mine", "analysis.margin=0.05", "analysis.baseline=dpo"]


def sweep_of(store: Path, *words: str) -> Sweep:
    return prepare(Expansion([compose([*SMALL, f"results_dir={store}", *words])], [{}]))


def frozen(sweep: Sweep) -> Path:
    (path,) = (sweep.folder / "runs").iterdir()
    return path


@contextmanager
def another_launcher(sweep: Sweep, marker: str) -> Iterator[None]:
    """A launcher of another process, at work on the sweep: `module.function` says so."""
    module, _, name = marker.partition(".")
    code = (
        "import sys; from pathlib import Path; from ablate.store.layout import Layout\n"
        f"from ablate.launch.{module} import {name}\n"
        f"with {name}(Layout(Path(sys.argv[1])), sys.argv[2]): print('on', flush=True); input()\n"
    )
    words = [sys.executable, "-c", code, str(sweep.layout.root), sweep.name]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "on\n"
        yield
        other.communicate("\n")


def record(sweep: Sweep) -> None:
    """A finished run, as far as the launcher asks."""
    (identity,) = sweep.plans
    with files.scratch(sweep.layout.scratch, "made") as private:
        records.publish(sweep.layout, identity, private, {"status": "done"})


@pytest.mark.parametrize("marker", ["pools.at_work", "launches.launching"])
def test_runs_that_a_launcher_may_still_read_are_not_rewritten(tmp_path: Path, marker: str) -> None:
    first = sweep_of(tmp_path)
    freeze(first, ["seed=0"], "local", LOCAL)
    before = frozen(first).read_bytes()
    again = sweep_of(tmp_path, "keep=none", "runtime.processes=2")
    assert again.name == first.name, "the same runs, whatever is kept of them"
    with another_launcher(first, marker):
        told = freeze(again, ["keep=none"], "local", LOCAL)
    assert frozen(first).read_bytes() == before
    assert "keep, runtime.processes" in told[0]
    assert "another launcher" in told[0]
    (planned,) = again.plans.values()
    assert planned.run.runtime.processes == 1, "what is launched is what is frozen"
    # nobody reads them any more: whoever asks again gets what they ask for
    last = sweep_of(tmp_path, "keep=none", "runtime.processes=2")
    with launching(last.layout, last.name), at_work(last.layout, last.name):
        assert freeze(last, ["keep=none"], "local", LOCAL) == []
    assert files.read_json(frozen(first))["runtime"]["processes"] == 2


@pytest.mark.parametrize("queued", [True, False])
def test_runs_that_queued_jobs_will_read_are_not_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queued: bool
) -> None:
    first = sweep_of(tmp_path / "store")
    freeze(first, ["seed=0"], "slurm", {"partition": "gpu"})
    before = frozen(first).read_bytes()
    (first.folder / "slurm").mkdir()
    files.write_json(first.folder / "slurm" / "jobs.json", {f"run-{next(iter(first.plans))}": "7"})
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sbatch", "squeue"):
        answer = "echo '7|PENDING|Priority'" if queued else "true"
        (tools / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    told = freeze(sweep_of(tmp_path / "store", "keep=none"), ["keep=none"], "local", LOCAL)
    assert (frozen(first).read_bytes() == before) == queued
    assert bool(told) == queued
    found = files.read_json(first.folder / "sweep.json")
    assert [launch["launcher"] for launch in found["launches"]] == ["slurm", "local"]
    assert found["launches"][0]["options"] == {"partition": "gpu"}


def test_jobs_of_a_scheduler_that_is_not_here_count_as_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sweep_of(tmp_path)
    freeze(first, ["seed=0"], "slurm", {})
    (first.folder / "slurm").mkdir()
    files.write_json(first.folder / "slurm" / "jobs.json", {"run-x": "7"})
    monkeypatch.setenv("PATH", "")
    assert "cannot be asked" in freeze(sweep_of(tmp_path, "keep=none"), [], "local", LOCAL)[0]


def test_what_ran_stays_what_is_frozen(tmp_path: Path) -> None:
    first = sweep_of(tmp_path)
    freeze(first, ["seed=0"], "local", LOCAL)
    before = frozen(first).read_bytes()
    record(first)
    assert freeze(sweep_of(tmp_path, "keep=none"), ["keep=none"], "local", LOCAL) == []
    assert frozen(first).read_bytes() == before
    freeze(sweep_of(tmp_path, "keep=none", "force=true"), ["force=true"], "local", LOCAL)
    assert files.read_json(frozen(first))["force"] is True, "another revision is a run to come"


def test_a_margin_is_the_one_that_was_there_before_the_results(tmp_path: Path) -> None:
    first = sweep_of(tmp_path)
    freeze(first, MARGIN, "local", LOCAL)
    layout = Layout(tmp_path)

    def fixed() -> dict[str, object]:
        return analysis_of(files.read_json(first.folder / "sweep.json"))

    assert freeze(first, [*MARGIN[:1], "analysis.margin=0.1"], "local", LOCAL) == []
    assert fixed() == {"margin": "0.1"}, "no result was there that could have been looked at"
    record(first)
    (told,) = freeze(first, [*MARGIN[:1], "analysis.margin=0.5"], "local", LOCAL)
    assert fixed() == {"margin": "0.1"}
    assert "margin=0.5" in told
    assert "margin=0.1" in told
    assert "--margin" in told
    # under another name the same runs are found, and the margin is the same
    freeze(first, ["+sweep=other", "analysis.margin=0.5"], "local", LOCAL)
    content = files.read_json(first.folder / "sweep.json")
    assert names(commands_of(content)) == ["mine", "other"]
    assert fixed() == {"margin": "0.1"}
    assert freeze(first, ["+sweep=other"], "local", LOCAL) == []
    assert read_sweep(first.folder).commands[-1] == ["+sweep=other"]
    # what is handed on tells the commands, and no more of the launches
    copy_sweeps(layout, Layout(tmp_path / "copy"), None)
    (copied,) = (tmp_path / "copy").glob("sweeps/*/sweep.json")
    assert all(set(launch) == {"overrides"} for launch in files.read_json(copied)["launches"])
    assert names(commands_of(files.read_json(copied))) == ["mine", "other"]


def test_a_sweep_that_is_named_later_brings_its_labels(tmp_path: Path) -> None:
    first = sweep_of(tmp_path)
    freeze(first, ["seed=0"], "local", LOCAL)
    (identity,) = first.plans
    named = sweep_of(tmp_path)
    named.labels[identity] = [{"match": "prompts"}]
    freeze(named, ["+sweep=mine"], "local", LOCAL)
    freeze(sweep_of(tmp_path), ["seed=0"], "local", LOCAL)
    assert read_sweep(first.folder).labels == {identity: [{"match": "prompts"}]}
    assert load_study(tmp_path, "mine").commands == ("seed=0 -m", "+sweep=mine -m")
