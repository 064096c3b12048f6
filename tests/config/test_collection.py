"""Collection: prompts of rounds, what the settings amount to, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.config import legality
from ablate.config.collection import CollectionConfig, round_prompts
from ablate.config.compose import compose
from ablate.config.levels import read_level
from ablate.errors import ConfigError


def config(**changes) -> CollectionConfig:
    return CollectionConfig(**{**read_level("collection", "offline"), **changes})


def refused(*words: str) -> str:
    with pytest.raises(ConfigError) as told:
        legality.check(compose(list(words)))
    return str(told.value)


@pytest.mark.parametrize("level", ["offline", "iterative", "online", "semi_online"])
def test_a_level_is_what_its_name_says_and_is_legal_by_itself(level: str) -> None:
    run = compose([f"collection={level}"])
    legality.check(run)
    assert run.collection.kind == level
    assert (run.training.checkpoint_every == 10) == ("online" in level)


def test_rounds_take_new_prompts_in_the_proportions_of_the_paper() -> None:
    """arXiv 2502.00203: 120k; 100k new; 50k new and 50k old. Here in equal rounds."""
    rounds = round_prompts(compose(["collection=iterative"]).collection, 1000)
    assert rounds == [(0, 400, 0), (400, 800, 0), (800, 1000, 200)]


def test_one_round_of_all_prompts_is_the_whole_split() -> None:
    assert round_prompts(config(), 24) == [(0, 24, 0)]


@given(
    total=st.integers(1, 5000),
    size=st.floats(0.01, 1),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    rounds=st.integers(1, 6),
)
def test_rounds_chain_and_fewer_are_the_beginning_of_more(
    total: int, size: float, shares: list[float], rounds: int
) -> None:
    made = config(round_prompts=size, new_prompts=[1.0, *shares], rounds=rounds)
    parts = round_prompts(made, total)
    fewer = round_prompts(made.model_copy(update={"rounds": max(1, rounds - 1)}), total)
    assert parts[: len(fewer)] == fewer
    sizes = {last - first + old for first, last, old in parts}
    assert len(sizes) == 1
    assert [first for first, _, _ in parts] == [0, *(last for _, last, _ in parts[:-1])]
    if size * (1 + sum(made.new_share(n) for n in range(2, rounds + 1))) <= 1:
        assert parts[-1][1] <= total


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["collection=iterative", "collection.rounds=4"], "need 1.2 times the train prompts"),
        (["collection=iterative", "collection.new_prompts=[0.5]"], "begin with 1"),
        (["collection.rounds=2", "collection.round_prompts=0.3", "collection.new_prompts=[1,0]"],
         None),
        (["collection=online", "collection.num_samples=3"], "num_samples=3 is less than"),
        (["collection.num_samples=8"], "collection=online"),
        (["collection=online", "collection.rounds=2", "collection.round_prompts=0.5",
          "collection.init=sft"], "would forget"),
        (["collection=online", "objective=kto", "training.batch_size=1"], "batch_size=2"),
        (["objective=inpo"], "collection=iterative"),
        (["objective=inpo", "collection=iterative"], None),
        (["objective=inpo", "collection=online"], None),
        (["objective=xpo", "num_responses=4", "dataset.pool.num_responses=4"], "one more response"),
        (["objective=xpo", "num_responses=4", "dataset.pool.num_responses=4",
          "collection=online"], None),
        (["objective=xpo", "collection=iterative", "collection.reference=sft"],
         "collection.reference=last"),
        (["num_responses=32"], "the pool holds 16"),
        (["num_responses=32", "collection=online"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_cannot_be_collected_is_refused_with_the_way_out(
    words: list[str], told: str | None
) -> None:
    if told is None:
        legality.check(compose(words))
    else:
        assert told in refused(*words)
