"""Runs on several processes that cannot work are refused before any work."""

import pytest

from ablate.config.compose import compose
from ablate.config.legality import check
from ablate.errors import ConfigError

HUB = ["base_model=llama3.1_8b", "base_model.path=here"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["runtime.processes=3"], r"training\.batch_size=64 does not divide .*processes=3"),
        (["runtime.processes=3", "training.batch_size=63"], r"base_model\.sft\.batch_size=128"),
        (
            ["runtime.processes=4", "training.micro_batch_size=32"],
            r"each of 4 processes has 16 of training\.batch_size=64",
        ),
        (
            [
                "dataset=sums",
                "collection=online",
                "shaping=hapo",
                "reward=verifier",
                "runtime.processes=2",
            ],
            r"shaping=hapo .* use runtime\.processes=1",
        ),
        ([*HUB, "objective=kto"], r"objective=kto .* mismatched pairs .* runtime\.fsdp=false"),
        ([*HUB, "objective=tdpo2"], r"objective=tdpo2 .* runtime\.fsdp=false"),
        ([*HUB, "collection=online"], r"collection\.refresh_every samples .* runtime\.fsdp=false"),
    ],
)
def test_what_cannot_work_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check(compose(words))


@pytest.mark.parametrize("words", [HUB, [*HUB, "objective=kto", "runtime.fsdp=false"]])
def test_what_can_is_not(words: list[str]) -> None:
    check(compose(words))


def test_processes_are_no_part_of_a_run(tmp_path) -> None:
    from ablate.stages.graph import plan
    from ablate.store.layout import Layout

    one, two = (
        plan(compose([f"runtime.processes={number}"]), Layout(tmp_path)).identity
        for number in (1, 2)
    )
    assert one == two


def test_rewards_of_stored_responses_are_made_by_one_process_and_may_be_shaped() -> None:
    words = ["dataset=sums", "reward=verifier", "shaping=grpo_lambda", "runtime.processes=2"]
    check(compose(words))
    with pytest.raises(ConfigError, match=r"shaping=grpo_lambda .* use runtime\.processes=1"):
        check(compose([*words, "collection=online"]))
