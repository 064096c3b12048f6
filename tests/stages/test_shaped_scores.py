"""Whole runs with shaping and with policy gradients: what scores and trainer make of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.config import legality
from ablate.config.compose import compose
from ablate.errors import DataError
from ablate.results import load
from ablate.stages.complete import Outcome, complete
from ablate.stages.graph import plan
from ablate.store.layout import Layout
from smallrun import SMALL, run

SUMS = [
    "dataset=sums", "reward=gold", "objective=rpo_sqloo", "dataset.sizes.train=48",
    "base_model.sft.steps=60", "dataset.pool.num_responses=8",
]  # fmt: skip


def table(store: Path, outcome: Outcome, name: str, file: str) -> pd.DataFrame:
    stage = next(stage for stage in outcome.record.data["stages"] if stage["name"] == name)
    return pd.read_parquet(store / "stages" / name / stage["id"] / file)


def test_the_scores_are_the_published_formula_over_the_pool(store: Path) -> None:
    plain, shaped = run(store, *SUMS), run(store, *SUMS, "shaping=slpo", "shaping.weight=0.5")
    assert "slpo" in shaped.record.data["name"]
    assert "slpo" not in plain.record.data["name"]
    pool = table(store, shaped, "pool", "pool.parquet")
    scores = table(store, shaped, "scores", "scores.parquet")
    both = pool.merge(scores, on=["prompt_id", "index"], validate="one_to_one")
    both["length"] = both["response_ids"].map(len)
    right = both[both["raw"] == 1]
    assert 5 < len(right) < len(both) / 2
    low = right.groupby("prompt_id")["length"].transform("min")
    high = right.groupby("prompt_id")["length"].transform("max")
    bonus = ((high - right["length"]) / (high - low)).fillna(0.0)
    assert (bonus > 0).any()
    expected = both["raw"] + 0.5 * bonus.reindex(both.index).fillna(0.0)
    deviation = expected.groupby(both["prompt_id"]).std().mean()
    np.testing.assert_allclose(both["reward"], expected / deviation)
    np.testing.assert_allclose(both["rank"], expected)
    told = shaped.record.data["reward"]["shaping"]
    assert told["mean_before"] == pytest.approx(both["raw"].mean())
    assert told["mean_after"] == pytest.approx(expected.mean())
    assert told["length_correlation"] < 0
    assert plain.record.data["reward"]["shaping"] is None
    # the same samples and labels; other scores, so another policy
    old = table(store, plain, "scores", "scores.parquet")
    np.testing.assert_array_equal(old["raw"], scores["raw"])
    assert plain.record.data["policy"]["weights"] != shaped.record.data["policy"]["weights"]
    frame = load(store)
    assert sorted(frame["shaping"]) == ["none", "slpo"]


def test_a_judge_whose_scores_are_no_verdicts_stops_the_stage(tmp_path: Path) -> None:
    path = tmp_path / "prefs.jsonl"
    lines = [
        f'{{"prompt": "q{i}", "responses": ["a b", "c", "d"], "scores": [1.0, 0.4, 0.0]}}'
        for i in range(40)
    ]
    path.write_text("\n".join(lines))
    words = ["dataset=local", f"dataset.path={path}", "judge=preference", "reward=gold",
             "shaping=slpo", "num_responses=2"]  # fmt: skip
    config = compose([*[w for w in SMALL if "sizes" not in w], f"results_dir={tmp_path}/s", *words])
    legality.check(config)
    layout = Layout(tmp_path / "s")
    with pytest.raises(DataError, match=r"shapes verdicts.*one reward is 0\.4"):
        complete(plan(config, layout), layout)


@pytest.mark.parametrize("name", ["rloo", "grpo", "reinforce_pp"])
def test_a_policy_gradient_on_the_pool_of_the_reference(store: Path, name: str) -> None:
    """The pool is the initial policy's: the ratio is 1 at the first step and leaves it later."""
    words = [*SUMS, f"objective={name}", "num_responses.select=first", "training.batch_size=16",
             "training.lr=3e-3"]  # fmt: skip
    whole = run(store, *words)
    steps = pd.read_parquet(whole.record.path / "train.parquet")
    assert steps["ratio"].iloc[0] == pytest.approx(1.0, abs=1e-4)
    assert steps["clipped"].iloc[0] == 0
    assert (steps["ratio"].iloc[1:] - 1).abs().max() > 1e-3
    assert np.isfinite(steps["loss"]).all()
    cut = run(store, *words, "training.micro_batch_size=4")
    again = pd.read_parquet(cut.record.path / "train.parquet")
    for column in ("loss", "grad_norm", "ratio"):
        np.testing.assert_allclose(again[column], steps[column], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["hapo", "budget"])
def test_shapers_that_follow_the_training_follow_it(store: Path, name: str) -> None:
    """Online, from the same samples: the reward of the first steps differs as the formula says."""
    online = [*SUMS, "collection=online", "training.epochs=1", "collection.curve_every=null"]
    plain = run(store, *online)
    shaped = run(store, *online, f"shaping={name}")
    one, two = (
        pd.read_parquet(outcome.record.path / "train.parquet") for outcome in (plain, shaped)
    )
    # the first step's responses are the same; HAPO has no history then, the budget pays at once
    assert one["length"].iloc[0] == two["length"].iloc[0]
    before, after = (
        frame["reward"].iloc[0] * outcome.record.data["reward"]["scale"]
        for frame, outcome in ((one, plain), (two, shaped))
    )
    assert (before == pytest.approx(after)) == (name == "hapo")
    assert np.isfinite(two["loss"]).all()
