"""Composition: what people type reaches the run, and mistakes are named."""

import pytest

from ablate.config import legality
from ablate.config.compose import compose, hydra_session
from ablate.config.expand import expand
from ablate.config.levels import level_names, level_summary
from ablate.config.overrides import normalize
from ablate.config.run import RunConfig
from ablate.errors import ConfigError

FACTORS = ("objective", "num_responses", "reward", "base_model", "dataset", "collection", "judge",
           "evaluation", "training", "tracker")  # fmt: skip
#: what a level needs beside its name
COMPANIONS = {"judge=hf": ["judge.path=/models/judge"], "dataset=local": ["dataset.path=x.jsonl"]}
LEVELS = [f"{factor}={level}" for factor in FACTORS for level in level_names(factor)]


def expanded(*words: str) -> list[RunConfig]:
    with hydra_session() as hydra:
        return expand(hydra.config_loader, list(words))


@pytest.mark.parametrize("word", LEVELS)
def test_every_level_composes_and_says_what_it_is(word: str) -> None:
    run = compose([word, *COMPANIONS.get(word, [])])
    factor, level = word.split("=")
    node = getattr(run, factor)
    assert str(node.k if factor == "num_responses" else node.name) == level
    assert len(level_summary(factor, level)) > 20


def test_the_literal_commands_of_a_numeric_factor_work() -> None:
    assert compose(["num_responses=4"]).num_responses.k == 4
    assert compose(["num_responses=6"]).num_responses.k == 6
    assert compose(["num_responses.k=6"]).num_responses.k == 6
    assert [run.num_responses.k for run in expanded("num_responses=2,4")] == [2, 4]
    assert [run.num_responses.k for run in expanded("num_responses=2,6")] == [2, 6]


def test_seed_is_short_for_its_value() -> None:
    assert normalize(["seed=3", "seed.scope=policy"]) == ["seed.value=3", "seed.scope=policy"]
    assert [run.seed.value for run in expanded("seed=0,1,2")] == [0, 1, 2]
    assert [run.seed.value for run in expanded("seed=range(0,3)")] == [0, 1, 2]


def test_a_sweep_is_the_product_of_its_alternatives() -> None:
    runs = expanded("objective=dpo,simpo,rpo_bwd", "num_responses=2,4", "seed=0,1")
    found = {(run.objective.name, run.num_responses.k, run.seed.value) for run in runs}
    wanted = {(o, k, s) for o in ("dpo", "simpo", "rpo_bwd") for k in (2, 4) for s in (0, 1)}
    assert found == wanted
    assert len(runs) == 12


def test_the_quick_composition_of_sweeps_equals_one_by_one() -> None:
    words = ["objective=dpo,rpo_bwd", "objective.beta=0.05,0.5", "training.lr=1e-3",
             "base_model=small", "num_responses=2,6"]  # fmt: skip
    one_by_one = [
        compose([f"objective={o}", f"objective.beta={b}", "training.lr=1e-3", "base_model=small",
                 f"num_responses={k}"])
        for o in ("dpo", "rpo_bwd") for b in (0.05, 0.5) for k in (2, 6)
    ]  # fmt: skip
    assert expanded(*words) == one_by_one


def test_levels_follow_settings_of_other_factors() -> None:
    run = compose(["base_model=tiny", "base_model.preference_lr=0.007"])
    assert run.training.lr == 0.007


def test_a_level_in_a_folder_of_ones_own_is_found(tmp_path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "objective"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# My own.\ndefaults: [dpo, _self_]\nname: mine\nbeta: 0.3\n")
    run = compose(["objective=mine"], [str(tmp_path)])
    assert (run.objective.name, run.objective.beta) == ("mine", 0.3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["objective=dppo"], ["objective 'dppo'", "dpo", "simpo"]),
        (["objective.betta=1"], ["objective.betta"]),
        (["objective.beta=0"], ["objective.beta", "greater than 0", "0"]),
        (["objective.beta=-0.1"], ["objective.beta", "-0.1"]),
        (["objective.beta=high"], ["objective.beta", "'high'"]),
        (["training.batch_size=0"], ["training.batch_size"]),
        (["nonsense=3"], ["nonsense"]),
        (["evaluation.sampling.top_p=1.5"], ["evaluation.sampling.top_p", "1.5"]),
        (["judge=hf"], ["judge.path", "must be given"]),
        (["dataset=local"], ["dataset.path", "must be given"]),
        (["seed=-1"], ["seed.value"]),
    ],
)
def test_a_mistake_is_named_in_one_message(words: list[str], told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(words)
    for part in told:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["num_responses=16", "dataset.pool.num_responses=8"], ["16", "8", "pool"]),
        (["num_responses=1", "objective=dpo"], ["objective=dpo", "at least 2"]),
        (["objective=rpo_bwd", "reward=labels"], ["rpo_bwd", "reward=labels", "reward=gold"]),
        (["base_model=hf"], ["base_model.path"]),
        (["dataset=local", "dataset.path=x.jsonl", "judge=world"], ["judge=preference"]),
        (["judge=preference"], ["judge=world"]),
        (["reward=implicit", "reward.training.objective=rpo_bwd"], ["rpo_bwd", "only an order"]),
        (["base_model.sft.steps=0"], ["random weights"]),
    ],
)
def test_levels_that_do_not_fit_together_are_refused(words: list[str], told: list[str]) -> None:
    run = compose(words)
    with pytest.raises(ConfigError) as caught:
        legality.check(run)
    for part in told:
        assert part in str(caught.value)


def test_every_reason_is_told_at_once() -> None:
    run = compose(["num_responses=1", "objective=rpo_sq", "reward=labels"])
    with pytest.raises(ConfigError) as caught:
        legality.check(run)
    assert len(str(caught.value).splitlines()) == 2
