"""What holds in every embedded world: disjoint, nested, closed, solvable, named by content."""

import statistics
from collections.abc import Callable
from itertools import combinations

import pytest

from ablate.datasets import SPLITS, PreferenceDataset, World, open_dataset
from ablate.errors import ConfigError, DataError

WORLDS = pytest.mark.parametrize("name", ["lists", "sums"])
Open = Callable[..., World]
FILLED = [split for split in SPLITS if split != "judge"]


@WORLDS
@pytest.mark.parametrize("kind", ["id", "ood", "mix"])
def test_no_prompt_is_in_two_splits_or_twice_in_one(name: str, kind: str, open_world: Open) -> None:
    world = open_world(name, sizes={"sft": 4096, "train": 2048}, train_prompts=kind)
    texts = {split: [p.text for p in world.prompts(split)] for split in FILLED}
    for split in FILLED:
        assert len(set(texts[split])) == len(texts[split])
    for one, other in combinations(FILLED, 2):
        assert not set(texts[one]) & set(texts[other])
    ids = [p.id for split in FILLED for p in world.prompts(split)]
    assert len(set(ids)) == len(ids)


@WORLDS
def test_the_shipped_sizes_are_filled(name: str, open_world: Open) -> None:
    world = open_world(name, sizes={})
    sizes = world.config.sizes
    for split in FILLED:
        prompts = world.prompts(split)
        assert len(prompts) == getattr(sizes, split)
        assert {p.split for p in prompts} == {split}


@WORLDS
@pytest.mark.parametrize("kind", ["id", "mix"])
def test_a_larger_split_extends_a_smaller_one(name: str, kind: str, open_world: Open) -> None:
    small = open_world(name, train_prompts=kind)
    sizes = {split: 2 * getattr(small.config.sizes, split) for split in FILLED}
    large = open_world(name, sizes=sizes, train_prompts=kind)
    for split in FILLED:
        few = small.prompts(split)
        assert large.prompts(split)[: len(few)] == few
        assert small.prompts(split, 7) == few[:7]
    demos = small.demonstrations()
    assert large.demonstrations()[: len(demos)] == demos


@WORLDS
def test_mixed_training_prompts_are_half_of_each_kind(name: str, open_world: Open) -> None:
    def train(kind: str) -> list[str]:
        return [p.text for p in open_world(name, train_prompts=kind).prompts("train")]

    mix = train("mix")
    assert mix[0::2] == train("id")[:60]
    assert mix[1::2] == train("ood")[:60]


@WORLDS
def test_every_prompt_has_a_perfect_response_of_known_words(name: str, open_world: Open) -> None:
    world = open_world(name, sizes={"sft": 1024, "train": 1024}, train_prompts="mix")
    known = set(world.vocabulary or [])
    for split in FILLED:
        for prompt in world.prompts(split):
            best = world.perfect_response(prompt)
            assert world.judge(prompt, best) == world.best_score
            assert set(prompt.text.split()) <= known
            assert set(best.split()) <= known
            assert world.nuisance_words(best) == 0
    longest = world.config.pool.sampling.max_new_tokens
    for _, text in world.demonstrations():
        assert set(text.split()) <= known
        assert 0 < len(text.split()) < longest
    assert len(known) == len(world.vocabulary or [])


@WORLDS
def test_the_same_world_twice_is_the_same(name: str, open_world: Open) -> None:
    one, other = open_world(name), open_world(name)
    assert one.demonstrations() == other.demonstrations()
    assert one.identity() == other.identity()
    assert isinstance(one, PreferenceDataset)


@WORLDS
def test_a_world_seed_redraws_prompts(name: str, open_world: Open) -> None:
    one, other = open_world(name), open_world(name, world_seed=1)
    shared = {p.text for p in one.prompts("test")} & {p.text for p in other.prompts("test")}
    assert len(shared) < 10


@WORLDS
@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"world_seed": 1}, set(FILLED)),
        ({"train_prompts": "ood"}, {"train"}),
        ({"nuisance": 0.1}, {"sft"}),
        ({"sizes": {"test": 51}}, {"test"}),
    ],
)
def test_identities_change_where_the_content_does(
    name: str, change: dict[str, object], moved: set[str], open_world: Open
) -> None:
    sizes = {"sft": 300, "reward": 60, "train": 120, "valid": 40, "test": 50, "ood": 70}
    world = open_world(name, sizes=sizes)
    changed = open_world(name, **{**change, "sizes": sizes | change.get("sizes", {})})  # type: ignore[operator]
    assert world.identity() != changed.identity()
    for split in FILLED:
        same = world.identity(split) == changed.identity(split)
        assert same == (split not in moved)
        if same:
            assert world.prompts(split) == changed.prompts(split)
    assert world.judge_identity() == changed.judge_identity()


def test_worlds_and_names(open_world: Open) -> None:
    assert open_world("lists").identity() != open_world("sums").identity()
    # the name of a level is a label and no part of the content
    renamed = open_world("lists").config.model_copy(update={"name": "mine"})
    assert open_dataset(renamed).identity() == open_world("lists").identity()


@WORLDS
def test_show_goes_with_quality_in_demonstrations(name: str, open_world: Open) -> None:
    def correlation(nuisance: float) -> float:
        world = open_world(name, sizes={"sft": 2000}, nuisance=nuisance)
        demos = world.demonstrations()
        scores = [world.judge(prompt, text) for prompt, text in demos]
        return statistics.correlation([world.nuisance_words(text) for _, text in demos], scores)

    assert abs(correlation(0.0)) < 0.1
    assert correlation(0.8) > 0.4


def test_a_world_that_is_too_small_says_how_much_it_has(open_world: Open) -> None:
    with pytest.raises(DataError, match=r"too few prompts .*sizes\.valid=4000") as caught:
        open_world("sums", sizes={"valid": 4000}).prompts("valid")
    most = int(str(caught.value).split("at most ")[1].split()[0])
    assert most > 500
    assert len(open_world("sums", sizes={"valid": most}).prompts("valid")) == most


def test_unknown_split_and_judge_split(lists: World) -> None:
    assert lists.prompts("judge") == []
    assert lists.responses("train") == []
    assert lists.response_counts("train") == {}
    with pytest.raises(ConfigError, match=r"unknown split 'dev'.*valid"):
        lists.prompts("dev")
