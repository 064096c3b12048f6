"""What stays of a policy: the run is the same, and the rest of its weights is gone."""

from pathlib import Path

import pytest

from ablate.config import legality
from ablate.config.compose import compose
from ablate.config.expand import Expansion
from ablate.errors import ConfigError
from ablate.launch.sweep import freeze, layout_of, prepare
from ablate.models.loading import load_model, weights_digest
from ablate.stages.complete import Outcome, complete
from ablate.stages.graph import plan
from ablate.stages.keep import kept_folder
from ablate.store import files
from ablate.store.layout import Layout
from smallrun import SMALL

#: the chosen checkpoint is not the last one, or need not be
WORDS = [*SMALL, "training.checkpoint_every=1", "training.select_checkpoint=valid"]


def run_of(store: Path, *words: str) -> Outcome:
    run = compose([*WORDS, f"results_dir={store}", *words])
    legality.check(run)
    return complete(plan(run, layout_of(run)), layout_of(run))


def policies(store: Path) -> list[Path]:
    return list((store / "stages" / "policy").iterdir())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: stages before the policy are computed once; each test has a seed of its own."""
    return tmp_path_factory.mktemp("store")


def test_all_is_kept_unless_less_is_asked_for(store: Path) -> None:
    outcome = run_of(store, "seed.scope=policy", "seed=1")
    stage = outcome.record.data["policy"]["stage"]
    steps = sorted(path.name for path in (store / "stages/policy" / stage).glob("step-*"))
    assert steps == ["step-1", "step-2", "step-3"]
    assert not kept_folder(Layout(store), stage).exists()


@pytest.mark.parametrize("keep", ["best", "last", "none"])
def test_the_asked_for_checkpoint_stays_and_the_run_is_the_same(store: Path, keep: str) -> None:
    words = ["seed.scope=policy", f"seed={['best', 'last', 'none'].index(keep) + 2}"]
    outcome = run_of(store, *words, f"keep={keep}")
    data = outcome.record.data
    stage = data["policy"]["stage"]
    assert not (store / "stages/policy" / stage).exists()
    kept = kept_folder(Layout(store), stage)
    if keep == "none":
        assert not kept.exists()
    else:
        step = data["policy"]["step"] if keep == "best" else max(data["policy"]["checkpoints"])
        assert [path.name for path in kept.glob("step-*")] == [f"step-{step}"]
        assert files.damage(kept) is None
        if keep == "last":
            digest = weights_digest(load_model(kept / f"step-{step}", device="cpu"))
            assert digest == data["policy"]["weights"]
    # the record stands; what needs the weights again makes them again, to the same answers
    assert run_of(store, *words).found
    again = run_of(store, *words, "evaluation.seed=5", "keep=none")
    assert again.record.data["policy"]["weights"] == data["policy"]["weights"]
    assert not list(store.glob("scratch/*"))


def test_an_adapter_alone(store: Path) -> None:
    with pytest.raises(ConfigError, match="base_model=tiny trains none"):
        run_of(store, "keep=adapter")
    lora = "base_model.lora={r: 2, alpha: 4.0, target_modules: all-linear}"
    outcome = run_of(store, "keep=adapter", lora, "seed.scope=policy", "seed=9")
    policy = outcome.record.data["policy"]
    kept = kept_folder(Layout(store), policy["stage"])
    names = {path.relative_to(kept).as_posix() for path in kept.rglob("*.safetensors")}
    assert names == {f"step-{policy['step']}/adapter/adapter_model.safetensors"}


def test_a_policy_that_another_run_of_a_sweep_needs_stays_whole_until_that_is_done(
    tmp_path: Path,
) -> None:
    runs = [
        compose([*WORDS, f"results_dir={tmp_path}", "keep=none", f"evaluation.seed={seed}"])
        for seed in (1, 2)
    ]
    sweep = prepare(Expansion(runs, [{}, {}]))
    freeze(sweep, ["test"], "local", {"workers": 1, "max_restarts": 0})
    first, second = sweep.plans.values()
    complete(first, sweep.layout)
    assert len(policies(tmp_path)) == 1
    complete(second, sweep.layout)
    assert policies(tmp_path) == []
