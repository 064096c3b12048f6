"""What Hydra's own tests ask of a launcher: counts of jobs, overrides, order, errors.

Hydra's suite passes local closures as tasks, which our launchers refuse: what they run was frozen
before.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.errors import ConfigError
from ablate.store import records
from ablate.store.layout import Layout
from smallrun import SMALL

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_a_sweep_is_as_many_jobs_as_it_says_each_with_its_overrides_in_order(
    ablate: Command, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    words = ["objective=simpo,dpo", "num_responses=2,4", "training.lr=2e-3", "seed.scope=policy"]
    done = ablate(*SMALL, *words, f"results_dir={root}", "-m")
    assert done.returncode == 0, done.stderr
    layout = Layout(root)
    found = {record.identity: record.data["config"] for record in records.records(layout)}
    assert len(found) == 4
    assert {config["training"]["lr"] for config in found.values()} == {2e-3}
    (folder,) = layout.sweeps.iterdir()
    sweep = json.loads((folder / "sweep.json").read_text())
    order = [(found[i]["objective"]["name"], found[i]["num_responses"]["k"]) for i in sweep["runs"]]
    # the last factor varies fastest, as in Hydra's own sweeper
    assert order == [("simpo", 2), ("simpo", 4), ("dpo", 2), ("dpo", 4)]
    # Hydra takes numeric levels in quotes
    assert {word for word in words if not word.startswith("num_")} <= set(sweep["overrides"])
    # the same again does nothing, and nothing was left of Hydra's own
    again = ablate(*SMALL, *words, f"results_dir={root}", "-m")
    assert again.returncode == 0
    assert again.stdout.count("in store") == 4
    assert [path.name for path in (tmp_path / "cwd").iterdir()] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["objective=dpo,nonsense"], "nonsense"),
        (["objective.beta=0.1,-1"], "beta"),
        (["nonsense=1,2"], "nonsense"),
        (["objective=dpo", "hydra/launcher=basic"], "hydra/launcher"),
        (["objective=dpo", "hydra/sweeper=basic"], "hydra/sweeper=ablate"),
        (["objective=dpo", "hydra.launcher.workers=0"], "workers=0"),
        (["objective=dpo", "hydra.launcher.max_restarts=-1"], "max_restarts=-1"),
    ],
)
def test_an_error_in_any_job_is_one_message_before_the_first(
    ablate: Command, tmp_path: Path, words: list[str], told: str
) -> None:
    done = ablate(*words, f"results_dir={tmp_path / 'store'}", "-m")
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("kind", ["LocalLauncher", "SlurmLauncher"])
def test_tasks_that_are_closures_are_refused(kind: str) -> None:
    from hydra_plugins.ablate import launcher

    chosen = getattr(launcher, kind)
    plain = chosen(workers=1, max_restarts=0) if kind == "LocalLauncher" else _slurm(chosen)
    with pytest.raises(ConfigError, match="take frozen runs: use hydra/sweeper=ablate"):
        plain.launch([["objective=dpo"]], 0)


def _slurm(chosen: type) -> object:
    from omegaconf import OmegaConf

    from ablate.config.levels import conf_dir

    level = OmegaConf.load(conf_dir() / "hydra/launcher/slurm.yaml")
    return chosen(**{str(k): v for k, v in level.items() if k != "_target_"})
