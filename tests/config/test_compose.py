"""Composition: what people type reaches the run, and mistakes are named."""

import pytest

from ablate.config import legality
from ablate.config.compose import compose, hydra_session
from ablate.config.expand import expand
from ablate.config.levels import level_names, level_summary
from ablate.config.overrides import normalize
from ablate.config.run import RunConfig
from ablate.errors import ConfigError

FACTORS = ("objective", "num_responses", "reward", "base_model", "dataset", "collection", "sampler",
           "judge", "evaluation", "training", "tracker")  # fmt: skip
#: what a level needs beside its name
ENDPOINT = ["judge.url=http://localhost:8000/v1/chat/completions", "judge.model=m"]
COMPANIONS = {
    "judge=hf": ["judge.path=/models/judge"],
    "judge=http": ENDPOINT,
    "judge=http_pairwise": ENDPOINT,
    "judge=http_reward": ENDPOINT,
    "dataset=local": ["dataset.path=x.jsonl"],
}
LEVELS = [f"{factor}={level}" for factor in FACTORS for level in level_names(factor)]


def expanded(*words: str) -> list[RunConfig]:
    with hydra_session() as hydra:
        return expand(hydra.config_loader, list(words)).runs


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


@pytest.mark.parametrize(
    "words", [["seed=3,4", "training.lr=1e-3"], ["training.lr=1e-3", "seed=3,4"],
              ["seed=3,4", "training.max_steps=${seed.value}"]],
)  # fmt: skip
def test_seeds_are_put_in_wherever_they_stand(words: list[str]) -> None:
    one_by_one = [compose([w.replace("3,4", seed) for w in words]) for seed in ("3", "4")]
    assert expanded(*words) == one_by_one
    assert one_by_one[0].training != one_by_one[1].training or "max_steps" not in words[1]


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
        (["judge=http"], ["judge.url", "must be given"]),
        (["judge=http", "judge.url=x", "judge.model=m"], ["judge: url", "http://"]),
        (["judge=http", *ENDPOINT, "judge.retries=-1"], ["judge.retries", "-1"]),
        (["judge=http", *ENDPOINT, "judge.chat.scale=[5,1]"], ["judge.chat", "scale"]),
        (["judge=http", *ENDPOINT, "judge.chat.pattern=score"], ["one group"]),
        (["judge=http", *ENDPOINT, "judge.chat.pattern='(score'"], ["regular expression"]),
        (["judge=http", *ENDPOINT, "judge.chat.template='mark {response}'"], ["{prompt}"]),
        (
            ["judge=http_pairwise", *ENDPOINT, "judge.chat.template='{prompt} {response}'"],
            ["{response_a}, {response_b}"],
        ),
        (["dataset=local", "dataset.path=x", "dataset.labelled_by=me"], ["dataset.labelled_by"]),
        (["dataset=local"], ["dataset.path", "must be given"]),
        (["seed=-1"], ["seed.value"]),
        (["sampler.batch_size=0"], ["sampler.batch_size: input should be greater than 0"]),
        (["sampler=continuous", "sampler.memory_share=1"], ["sampler.memory_share"]),
        (["dataset.pool.sampling.temperature=0"], ["dataset.pool.sampling.temperature"]),
        (["dataset.pool.sampling.top_k=-1"], ["dataset.pool.sampling.top_k"]),
        (["num_responses.select=median"], ["num_responses.select", "'max_variance'", "'median'"]),
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
        (["judge=http_pairwise", *ENDPOINT, "judge.format=rewards"], ["judge=http_reward"]),
        (["reward=implicit", "reward.training.objective=rpo_bwd"], ["rpo_bwd", "only an order"]),
        (["base_model.sft.steps=0"], ["random weights"]),
        (
            ["num_responses.select=rso", "reward=labels", "objective=dpo"],
            ["select=rso", "only an order", "best_worst"],
        ),
        (["sampler=vllm", "sampler.mode=server"], ["sampler.server_url=None", "needs the address"]),
        (["sampler=vllm", "sampler.server_url=http://x:1"], ["sampler.mode=colocate"]),
        (["sampler=vllm", "collection=online"], ["policy in training", "sampler=continuous"]),
        (["num_responses.min_gap=1", "collection=online"], ["min_gap", "stored pool"]),
        (["sampler=vllm", "runtime.device=cpu"], ["needs a GPU", "sampler=transformers"]),
        (
            ["num_responses.min_gap=1", "reward=labels", "objective=dpo"],
            ["min_gap=1", "only an order"],
        ),
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


@pytest.mark.parametrize(
    "word",
    [
        "judge.api_key_env=sk-SECRET",
        "judge.url='http://me:sk-SECRET@host/x'",
        "judge.url='http://host/x?api_key=SECRET'",
        "judge.url='sk-SECRET://host'",
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["judge=http", *ENDPOINT, word])
    assert "api_key_env" in str(caught.value) or "http://host" in str(caught.value)
    assert "SECRET" not in str(caught.value)
