"""What `plan` estimates: counts in closed form, speeds of a record, weights of a model."""

from pathlib import Path

import pytest

from ablate.config.compose import compose
from ablate.datasets import open_dataset
from ablate.launch.cost import fits, stage_costs, stage_seconds, step_cost
from ablate.launch.estimate import measured, shape_of
from ablate.launch.sweep import layout_of
from ablate.launch.work import Lengths, steps_of, work_of
from ablate.models.loading import build_model
from ablate.models.tokenizer import build_tokenizer
from ablate.stages.complete import complete
from ablate.stages.graph import plan
from ablate.store.records import Record
from smallrun import SMALL

LENGTHS = Lengths(prompt=10, response=8)


def stages(*words: str):  # type: ignore[no-untyped-def]
    run = compose(list(words))
    found = plan(run, layout_of(run)).stages()
    # the pool of test prompts, for labelled pairs, has a role of its own
    return {stage.name: stage for stage in found if stage.role != "pairs"}


@pytest.mark.parametrize("model", ["tiny", "small"])
@pytest.mark.parametrize("dataset", ["lists", "sums"])
def test_weights_are_those_of_the_model_that_is_built(model: str, dataset: str) -> None:
    run = compose([f"base_model={model}", f"dataset={dataset}"])
    tokenizer = build_tokenizer(open_dataset(run.dataset).vocabulary)
    built = build_model(run.base_model, tokenizer, seed=0, device="cpu")
    shape = shape_of(run)
    assert shape is not None
    # norms are left out
    assert shape.weights == pytest.approx(built.num_parameters(), rel=0.005)


def test_work_is_counted_as_the_configuration_says(tmp_path: Path) -> None:
    found = stages(f"results_dir={tmp_path}", "num_responses=4", "training.epochs=2")
    assert work_of(found["pool"], LENGTHS).samples == 2048 * 16
    assert work_of(found["policy"], LENGTHS).trained == 2048 * 2 * 4 * 18
    assert work_of(found["sft"], LENGTHS).trained == 400 * 128 * 18
    assert work_of(found["evaluation"], LENGTHS).samples == 256 + 512 + 512
    assert work_of(found["labels"], LENGTHS).passes == 0


def test_a_learnt_reward_sees_each_label_of_its_prompts_once(tmp_path: Path) -> None:
    words = [f"results_dir={tmp_path}", "reward=explicit"]
    # all there are: 1,024 prompts with 8 disjoint pairs of 16 responses each
    assert work_of(stages(*words)["reward_model"], LENGTHS).trained == 1024 * 8 * 2 * 18
    limited = stages(*words, "reward.training.num_labels=256", "reward.training.epochs=2")
    assert work_of(limited["reward_model"], LENGTHS).trained == 256 * 2 * 2 * 18


def test_fresh_responses_are_counted_step_by_step(tmp_path: Path) -> None:
    words = [f"results_dir={tmp_path}", "collection=online", "num_responses=4"]
    run = compose(words)
    assert steps_of(run) == 96
    policy = stages(*words)["policy"]
    curve = (2 + 96 // 10) * 128
    assert work_of(policy, LENGTHS).samples == 2048 * 3 * 4 + curve
    assert steps_of(compose([*words, "training.max_steps=7"])) == 7


def test_speeds_are_those_of_the_records(tmp_path: Path) -> None:
    run = compose([*SMALL, f"results_dir={tmp_path}"])
    shape = shape_of(run)
    assert shape is not None
    layout = layout_of(run)
    nothing = measured(layout, run, shape)
    assert (nothing.runs, nothing.rates, nothing.response) == (0, {}, None)
    planned = plan(run, layout)
    sft = next(stage for stage in planned.stages() if stage.name == "sft")
    step, whole = step_cost(shape.weights), stage_costs()["sft"]
    bare = 40 * step.fixed + 6 * shape.weights * 40 * 32 * (10 + 16) / step.rate
    assert nothing.seconds(sft, shape) == pytest.approx(whole.start + bare / whole.share)
    record = complete(planned, layout).record
    known = measured(layout, run, shape)
    assert known.runs == 1
    # the same stages again take what they took
    for kind in ("sft", "pool", "policy", "evaluation"):
        took = [s["result"]["seconds"] for s in record.data["stages"] if s["name"] == kind]
        mine = [known.seconds(stage, shape) for stage in planned.stages() if stage.name == kind]
        assert len(mine) == len(took)
        # of several, small ones are not what speeds are read from
        assert sum(mine) == pytest.approx(sum(took)) or len(took) > 1
    larger = plan(compose([*SMALL, f"results_dir={tmp_path}", "training.epochs=20"]), layout)
    policy = next(stage for stage in larger.stages() if stage.name == "policy")
    assert known.seconds(policy, shape) == pytest.approx(20 * _took(record, "policy"))
    assert known.beyond(policy, shape)


def _took(record: Record, kind: str) -> float:
    return next(s["result"]["seconds"] for s in record.data["stages"] if s["name"] == kind)


def test_the_cost_of_a_step_lies_between_those_that_were_measured() -> None:
    known = fits()
    assert len(known) >= 3
    for weights, cost in known:
        assert step_cost(weights).fixed == pytest.approx(cost.fixed)
        assert step_cost(weights).rate == pytest.approx(cost.rate)
    (low, first), (high, second) = known[:2]
    middle = step_cost(round((low * high) ** 0.5))
    assert middle.rate == pytest.approx((first.rate * second.rate) ** 0.5, rel=1e-3)
    assert middle.fixed == pytest.approx((first.fixed + second.fixed) / 2, rel=1e-3, abs=1e-6)
    assert step_cost(1) == step_cost(low)
    assert step_cost(10 * known[-1][0]) == known[-1][1]
    assert first.seconds(10, 1e9) == pytest.approx(10 * first.fixed + 1e9 / first.rate)


def test_every_stage_that_works_has_a_cost_before_anything_was_measured(tmp_path: Path) -> None:
    words = [f"results_dir={tmp_path}", "reward=explicit", "training.select_checkpoint=valid"]
    run = compose([*words, "training.checkpoint_every=10"])
    shape, layout = shape_of(run), layout_of(run)
    assert shape is not None
    nothing = measured(layout, run, shape)
    found = plan(run, layout).stages()
    working = {stage.name for stage in found if work_of(stage, LENGTHS).passes}
    assert {"sft", "pool", "ref_logps", "reward_model", "policy", "select", "answers",
            "evaluation"} <= working  # fmt: skip
    for stage in found:
        assert (nothing.seconds(stage, shape) > 0) == (stage.name in working)


def test_a_stage_starts_and_then_works_at_a_share_of_the_speed_of_bare_steps() -> None:
    for kind, cost in stage_costs().items():
        assert cost.start >= 0
        assert cost.share > 0
        weights = fits()[0][0]
        once, twice = (stage_seconds(kind, weights, 0, n * 1e12) for n in (1, 2))
        assert twice - once == pytest.approx(1e12 / (step_cost(weights).rate * cost.share))
        assert once - (twice - once) == pytest.approx(cost.start, abs=1e-9)
