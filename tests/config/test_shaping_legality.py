"""Shaping and importance ratios are refused where they have no meaning, each with the way out."""

import pytest

from ablate.config import legality
from ablate.config.compose import compose
from ablate.config.levels import level_names
from ablate.errors import ConfigError

SUMS = ["dataset=sums", "reward=gold"]
GRADIENTS = ["rloo", "grpo", "dr_grpo", "reinforce_pp", "dapo", "gspo", "cispo"]


def refusal(*words):
    with pytest.raises(ConfigError) as caught:
        legality.check(compose(list(words)))
    return str(caught.value)


@pytest.mark.parametrize("name", ["none", "slpo", "grpo_lambda", "truncation"])
def test_what_looks_at_one_batch_works_offline(name):
    legality.check(compose([*SUMS, f"shaping={name}"]))


@pytest.mark.parametrize(
    ("name", "reason"), [("hapo", "earlier answers"), ("budget", "before the first")]
)
def test_what_goes_along_with_training_does_not(name, reason):
    message = refusal(*SUMS, f"shaping={name}")
    assert f"shaping={name}" in message
    assert reason in message
    assert "collection=offline. Use collection=online, or shaping=slpo" in message


@pytest.mark.parametrize("name", ["hapo", "budget"])
def test_it_does_online(name):
    for collection in ("online", "semi_online"):
        legality.check(compose([*SUMS, f"shaping={name}", f"collection={collection}"]))
    message = refusal(*SUMS, f"shaping={name}", "collection=iterative")
    assert "with collection=iterative" in message


@pytest.mark.parametrize("name", [name for name in level_names("shaping") if name != "none"])
def test_graded_and_learnt_rewards_are_no_verdicts(name):
    assert "dataset=lists with judge=world has graded scores" in refusal(
        f"shaping={name}", "collection=online"
    )
    message = refusal("dataset=sums", "reward=explicit", f"shaping={name}")
    assert "reward=explicit gives none. Use reward=gold with dataset=sums" in message


def test_a_setting_of_another_shaper_is_told():
    with pytest.raises(ConfigError, match=r"shaping.limit has no meaning with shaping=slpo"):
        compose([*SUMS, "shaping=slpo", "shaping.limit=5"])
    with pytest.raises(ConfigError, match=r"shaping=slpo needs shaping.weight"):
        compose([*SUMS, "shaping=slpo", "shaping.weight=null"])


@pytest.mark.parametrize("name", GRADIENTS)
def test_ratios_need_the_policy_that_drew_the_responses(name):
    words = [f"objective={name}", "num_responses.select=first"]
    legality.check(compose(words))
    message = refusal(*words, "dataset.pool.sampling.temperature=0.7")
    assert f"objective={name}" in message
    assert "temperature 1, top_p 1, top_k 0 only (they are 0.7, 1, 0 here)" in message
    local = ["dataset=local", "dataset.path=x.jsonl", "judge=preference"]
    message = refusal(*words, *local)
    assert "nobody knows it of those that come with dataset=local" in message
    assert "rpo_sqloo" in message
    legality.check(compose(["objective=rpo_sqloo", *local]))
    assert "Use collection.init=last" in refusal(
        *words, "collection=iterative", "collection.init=sft"
    )


def test_responses_chosen_by_their_rewards_are_no_draws():
    message = refusal("objective=grpo")
    assert "num_responses.select=paper chooses 4 of 16 by their rewards" in message
    assert "Use num_responses.select=first or random, or all of them" in message
    legality.check(compose(["objective=grpo", "num_responses=16"]))
    legality.check(compose(["objective=grpo", "num_responses.select=random"]))
    legality.check(compose(["objective=grpo", "collection=online"]))
    assert "4 of 8" in refusal("objective=grpo", "collection=online", "collection.num_samples=8")
