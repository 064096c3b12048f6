"""Whole small runs of every reward source, and of the objectives that need more than scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablate.config import legality
from ablate.config.compose import compose
from ablate.config.reward import walk
from ablate.errors import ConfigError, DataError
from ablate.metrics.summary import mean_over_prompts
from ablate.stages.complete import Outcome, complete
from ablate.stages.graph import plan
from ablate.stages.preflight import check_data
from ablate.store.layout import Layout
from smallrun import SMALL, run


def folder(store: Path, outcome: Outcome, role: str) -> Path:
    """The stage's folder by its role in the record."""
    (stage,) = [s for s in outcome.record.data["stages"] if s["role"] == role]
    return store / "stages" / stage["name"] / stage["id"]


def scores(store: Path, outcome: Outcome) -> pd.DataFrame:
    return pd.read_parquet(folder(store, outcome, "scores") / "scores.parquet")


def joined(store: Path, outcome: Outcome) -> pd.DataFrame:
    """Scores beside pool and labels."""
    keys = ["prompt_id", "index"]
    table = scores(store, outcome)
    for role, name in (("pool/train", "pool"), ("labels/train", "labels")):
        other = pd.read_parquet(folder(store, outcome, role) / f"{name}.parquet")
        table = table.merge(other, on=keys, validate="one_to_one")
    return table


def wins(table: pd.DataFrame) -> dict[str, np.ndarray]:
    return {
        str(name): np.array(rows["win_probs"].tolist())
        for name, rows in table.groupby("prompt_id", sort=False)
    }


def test_labels_compare_responses_and_the_win_rate_is_the_reward(store: Path) -> None:
    outcome = run(store, "reward=pairwise", "objective=sppo", "num_responses=2")
    table = joined(store, outcome)
    rates = []
    for name, rows in table.groupby("prompt_id", sort=False):
        label = rows["label"].to_numpy()
        expected = (np.sign(label[:, None] - label[None, :]) + 1) / 2
        np.testing.assert_array_equal(wins(table)[str(name)], expected)
        rates += ((expected.sum(axis=1) - 0.5) / (len(rows) - 1)).tolist()
    np.testing.assert_allclose(table["raw"], rates)
    # the labels' own comparisons agree with the labels, and are sure of it
    agreed = outcome.record.data["reward"]["agreement"]
    assert agreed["accuracy"] == 1
    assert agreed["calibration_error"] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(
        table["reward"], table["raw"] / outcome.record.data["reward"]["scale"]
    )
    assert "train_reward" not in pd.read_parquet(outcome.record.path / "eval.parquet")


@pytest.mark.parametrize("objective", ["gpo", "egpo", "mcts_dpo"])
def test_objectives_of_win_probabilities_train(store: Path, objective: str) -> None:
    outcome = run(store, "reward=pairwise", f"objective={objective}")
    steps = pd.read_parquet(outcome.record.path / "train.parquet")
    assert outcome.record.data["status"] == "done"
    assert (steps["grad_norm"] > 0).all()


def test_a_general_preference_model_is_a_source(store: Path) -> None:
    outcome = run(store, "reward=gpm", "objective=sppo", "reward.training.dim=2")
    table = scores(store, outcome)
    for matrix in wins(table).values():
        np.testing.assert_allclose(matrix + matrix.T, 1, atol=1e-6)
    learnt = outcome.record.data["reward"]["learnt"]["reward_model"]
    assert 0 <= learnt["held_out"]["id"]["accuracy"] <= 1
    assert learnt["tau"] == 1.0


def test_bradley_terry_makes_probabilities_of_scores(store: Path) -> None:
    words = ["reward=pairwise_bt", "reward.tau=0.5", "objective=gpo"]
    outcome = run(store, *words)
    plain = scores(store, run(store, "reward=explicit"))
    table = scores(store, outcome)
    for name, matrix in wins(table).items():
        r = plain.loc[plain["prompt_id"] == name, "reward"].to_numpy()
        np.testing.assert_allclose(matrix, 1 / (1 + np.exp(-(r[:, None] - r[None, :]) / 0.5)))


def test_an_ensemble_trains_its_members_once_and_shares_them(store: Path) -> None:
    plain = run(store, "reward=explicit")
    outcome = run(store, "reward=ensemble", "objective=distill_mean")
    roles = {s["role"]: s["id"] for s in outcome.record.data["stages"]}
    members = [f"reward_model/explicit-{number}" for number in range(3)]
    assert set(members) <= set(roles)
    assert len({roles[member] for member in members}) == 3
    # the first member is the reward model that reward=explicit trains
    (same,) = [s for s in plain.record.data["stages"] if s["role"] == "reward_model/explicit"]
    assert roles[members[0]] == same["id"]
    table = scores(store, outcome)
    extra = np.array(table["extra_rewards"].tolist())
    np.testing.assert_allclose(extra.mean(axis=1), table["reward"], atol=1e-9)
    first = scores(store, plain)["reward"].to_numpy()
    scale = outcome.record.data["reward"]["scale"]
    np.testing.assert_allclose(extra[:, 0] * scale, first - first.mean(), atol=1e-9)
    apart = outcome.record.data["reward"]["disagreement"]
    assert set(apart) == {"explicit-0", "explicit-1", "explicit-2"}
    assert all(value > 0 for value in apart.values())


def test_pessimism_is_a_field_and_changes_no_member(store: Path) -> None:
    words = ["reward=ensemble", "reward.seeds=2"]
    plain = run(store, *words)
    scale = plain.record.data["reward"]["scale"]
    members = scale * np.array(scores(store, plain)["extra_rewards"].tolist())
    expected = {
        "min": members.min(axis=1),
        "mean_minus_sd": members.mean(axis=1) - 2 * members.std(axis=1, ddof=1),
    }
    found = {
        combine: run(store, *words, f"reward.combine={combine}", "reward.sd_weight=2.0")
        for combine in expected
    }
    for combine, outcome in found.items():
        np.testing.assert_allclose(scores(store, outcome)["raw"], expected[combine], atol=1e-9)
    # the weight of the deviation is no part of a minimum
    assert run(store, *words, "reward.combine=min").record.identity == (
        found["min"].record.identity
    )


def test_two_kinds_of_source_make_an_ensemble(store: Path) -> None:
    outcome = run(store, "reward=ensemble_mixed")
    learnt = outcome.record.data["reward"]["learnt"]
    assert set(learnt) == {"reward_model.explicit", "reward_model.implicit"}
    # at equal labels
    assert len({json.dumps(one["labels"]) for one in learnt.values()}) == 1


def test_a_composite_is_the_weighted_sum_of_its_terms(store: Path) -> None:
    outcome = run(store, "reward=composite", "reward.terms.length.weight=-0.25")
    gold = scores(store, run(store))["reward"].to_numpy()
    table = joined(store, outcome)
    length = table["response_ids"].map(len).to_numpy()
    np.testing.assert_allclose(table["raw"], gold - 0.25 * length)
    assert outcome.record.data["reward"]["judge_share"] == "part"
    answers = pd.read_parquet(outcome.record.path / "eval.parquet")
    fitted = outcome.record.data["reward"]["fitted"]
    quality = answers["judge_score"] / fitted["parts"]["quality"]["scale"]
    expected = (quality - 0.25 * answers["num_tokens"]) / fitted["scale"]
    np.testing.assert_allclose(answers["train_reward"], expected)


@pytest.mark.parametrize("objective", ["modpo", "dpa", "distill_mean"])
def test_a_vector_feeds_objectives_of_several_rewards(store: Path, objective: str) -> None:
    words = ["reward=vector", "reward.terms.length.weight=-1"]
    outcome = run(store, *words, f"objective={objective}", "num_responses=4")
    table = joined(store, outcome)
    extra = np.array(table["extra_rewards"].tolist())
    np.testing.assert_array_equal(extra[:, 0], -table["response_ids"].map(len))
    np.testing.assert_allclose(
        table["reward"], scores(store, run(store, "reward=explicit"))["reward"]
    )
    assert outcome.record.data["status"] == "done"


def test_scores_of_a_file_within_a_sum_say_nothing_of_new_answers(
    store: Path, tmp_path: Path
) -> None:
    lines = [
        {
            "prompt": f"question {number}?",
            "responses": [f"answer {'x' * (length + 1)}" for length in range(3)],
            "scores": [float(length) for length in range(3)],
        }
        for number in range(80)
    ]
    path = tmp_path / "prefs.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    kept = [word for word in SMALL if not word.startswith(("dataset.", "evaluation."))]
    config = compose(
        [*kept, f"results_dir={store}", "dataset=local", f"dataset.path={path}", "num_responses=2",
         "reward=composite", "dataset.judge_share=0.2", "evaluation.num_test=4",
         "evaluation.num_valid=4", "dataset.pool.sampling.max_new_tokens=12"]
    )  # fmt: skip
    legality.check(config)
    check_data(config)
    outcome = complete(plan(config, Layout(store)), Layout(store))
    assert outcome.record.data["reward"]["judge_share"] == "none"
    assert "train_reward" not in pd.read_parquet(outcome.record.path / "eval.parquet")


def test_a_verifier_of_sums_says_right_or_wrong(store: Path) -> None:
    words = ["dataset=sums", "reward=verifier", "base_model.sft.steps=80"]
    outcome = run(store, *words, "dataset.sizes.train=48")
    table = joined(store, outcome)
    assert set(table["raw"]) <= {0.0, 1.0}
    np.testing.assert_array_equal(table["raw"], table["label"])
    assert outcome.record.data["reward"]["judge_share"] == "all"


@pytest.mark.parametrize("prompts", ["ood", "mix"])
def test_labels_may_come_from_prompts_of_the_other_kind(store: Path, prompts: str) -> None:
    outcome = run(store, "reward=explicit", f"reward.training.prompts={prompts}")
    learnt = outcome.record.data["reward"]["learnt"]["reward_model"]
    assert learnt["labels"]["prompts"] == prompts
    assert set(learnt["held_out"]) == {"id", "ood"}
    assert all(0 <= part["accuracy"] <= 1 for part in learnt["held_out"].values())


def test_implicit_rewards_of_two_objectives_are_two_sources(store: Path) -> None:
    words = ["reward=implicit", "reward.training.num_labels=40"]
    found = [run(store, *words, f"reward.training.objective={o}") for o in ("dpo", "kto")]
    learnt = [one.record.data["reward"]["learnt"]["reward_model"] for one in found]
    assert len({one["weights"] for one in learnt}) == 2
    assert {one["labels"]["comparisons"] for one in learnt} == {40}


def test_more_labels_than_there_are_is_told(store: Path) -> None:
    with pytest.raises(DataError, match=r"num_labels=5000.*dataset.sizes.reward"):
        run(store, "reward=explicit", "reward.training.num_labels=5000")


@pytest.mark.parametrize("how", ["none", "centre", "z_score", "clip", "rank"])
def test_normalisers_are_a_choice_and_change_the_policy(store: Path, how: str) -> None:
    plain = run(store)
    outcome = run(store, f"reward.normalize={how}", "objective.beta=0.1")
    table = scores(store, outcome)
    assert outcome.record.identity != plain.record.identity
    np.testing.assert_array_equal(table["raw"], scores(store, plain)["raw"])
    assert np.isfinite(table["reward"]).all()
    answers = pd.read_parquet(outcome.record.path / "eval.parquet")
    if how != "clip":
        np.testing.assert_array_equal(answers["train_reward"], answers["judge_score"])


def test_a_checkpoint_can_be_selected_by_the_training_reward(store: Path) -> None:
    words = ["training.select_checkpoint=valid", "training.checkpoint_every=1", "reward=explicit"]
    by_judge = run(store, *words)
    outcome = run(store, *words, "training.select_by=training_reward")
    result = folder(store, outcome, "select") / "result.json"
    selected = json.loads(result.read_text())
    assert selected["by"] == "training_reward"
    step = outcome.record.data["policy"]["step"]
    assert selected["valid_reward"][str(step)] == max(selected["valid_reward"].values())
    answers = pd.read_parquet(outcome.record.path / "eval.parquet")
    rows = answers[answers["split"] == "valid"]
    mean = mean_over_prompts(rows["train_reward"].to_numpy(), rows["prompt_id"].to_numpy()).mean
    assert selected["valid_reward"][str(step)] == pytest.approx(mean)
    # the policy is the same: only the choice among its checkpoints is another
    ids = {s["role"]: s["id"] for s in by_judge.record.data["stages"]}
    same = {s["role"]: s["id"] for s in outcome.record.data["stages"]}
    assert ids["policy"] == same["policy"]
    assert ids["select"] != same["select"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["objective=sppo"], ["beats another", "reward=pairwise"]),
        (["objective=modpo"], ["further rewards", "reward=vector"]),
        (["objective=modpo", "reward=ensemble"], ["extra_weights", "1 weights", "3 further"]),
        (["objective=distill_mean", "reward=ensemble", "reward.combine=min"], ["combine=mean"]),
        (["reward=ensemble", "reward.seeds=1"], ["one member"]),
        (["reward=vector", "reward.order=[length,other]"], ["must name each of", "reward: order"]),
        (["reward=ensemble", "reward.members.explicit.training.lr=-1"],
         ["reward.members.explicit.training.lr: ", "greater than 0"]),
        (["reward=verifier"], ["grades", "dataset=sums"]),
        (["reward=verifier", "dataset=sums", r"reward.pattern='(\\d+)'"], ["reward.pattern=null"]),
        (["reward=explicit", "reward.output=1"], ["reward.path"]),
        (
            ["reward=gpm", "objective=dpo", "training.select_checkpoint=valid",
             "training.select_by=training_reward"],
            ["compares", "select_by=judge"],
        ),
        (
            ["dataset=local", "dataset.path=x.jsonl", "reward=explicit",
             "reward.training.prompts=ood"],
            ["use id"],
        ),
        (["dataset=local", "dataset.path=x.jsonl", "reward=verifier"], ["reward.pattern"]),
    ],
    ids=lambda value: " ".join(value),
)  # fmt: skip
def test_what_a_reward_cannot_do_is_refused(words: list[str], told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        legality.check(compose(words))
    for part in told:
        assert part in str(caught.value)


def test_the_level_that_the_documentation_shows_composes(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "polite.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    config = compose(["reward=polite"], [str(tmp_path)])
    legality.check(config)
    assert {source.kind for source in walk(config.reward)} == {"composite", "explicit", "format"}


def test_a_graded_judge_is_no_verifier(store: Path) -> None:
    """Where legality cannot know: the scores themselves are refused, with the prompt."""
    from ablate.rewards.sources import Verified
    from ablate.rewards.table import Answer

    class Half:
        def score(self, answers: Any) -> np.ndarray:
            return np.array([1.0, 0.5])

    answers = [Answer("a", "first", [1], "x", [2]), Answer("b", "second", [1], "y", [2])]
    with pytest.raises(DataError, match=r"'y' to the prompt 'second' got 0.5"):
        Verified(Half()).score(answers)
