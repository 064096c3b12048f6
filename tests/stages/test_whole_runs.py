"""Whole small runs through the stages: every reward source, every kind of model and dataset."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.config import legality
from ablate.config.compose import compose
from ablate.errors import DataError, ModelError
from ablate.models.loading import weights_digest
from ablate.results import load, load_eval, load_train
from ablate.stages import evaluation
from ablate.stages.complete import Outcome, complete
from ablate.stages.graph import plan
from ablate.stages.preflight import check_data
from ablate.store.layout import Layout
from smallrun import SMALL, run


@pytest.fixture(scope="module")
def first(store: Path) -> Outcome:
    return run(store)


def test_the_record_is_complete_and_plain(first: Outcome) -> None:
    data = json.loads((first.record.path / "record.json").read_text())
    assert not first.found
    assert data["status"] == "done"
    assert data["id"] == first.record.identity
    assert {stage["role"] for stage in data["stages"]} == {
        "sft", "pool/train", "labels/train", "scores", "ref_logps", "policy", "answers",
        "pool/pairs", "labels/pairs", "evaluation",
    }  # fmt: skip
    assert data["provenance"]["versions"]["trl"].startswith("1.16")
    assert data["tokens_trained"] > 0
    assert data["config"]["objective"]["name"] == "rpo_bwd"


def test_all_sampled_tokens_of_a_run_are_counted(store: Path, first: Outcome) -> None:
    """Pool, answers of SFT and policy: counted again from the stored token ids."""
    sampled = 0
    for stage in first.record.data["stages"]:
        folder = store / "stages" / stage["name"] / stage["id"]
        for table in ("pool.parquet", "answers.parquet"):
            if (folder / table).exists():
                sampled += pd.read_parquet(folder / table)["response_ids"].map(len).sum()
    sampled += pd.read_parquet(first.record.path / "eval.parquet")["num_tokens"].sum()
    assert first.record.data["tokens_generated"] == sampled


def test_the_metrics_can_be_recomputed_from_the_stored_answers(first: Outcome) -> None:
    answers = pd.read_parquet(first.record.path / "eval.parquet")
    metrics = first.record.data["metrics"]
    assert answers.groupby("split").size().to_dict() == {"valid": 8, "test": 12, "ood": 8}
    for split, rows in answers.groupby("split"):
        assert metrics["reward"][split]["mean"] == pytest.approx(rows["judge_score"].mean())
        won = (rows["judge_score"] > rows["baseline_score"]).mean()
        tied = (rows["judge_score"] == rows["baseline_score"]).mean()
        assert metrics["win_rate"][split]["mean"] == pytest.approx(won + tied / 2)
        assert metrics["kl"][split]["mean"] == pytest.approx(rows["kl"].mean())
    assert (answers["kl"] >= -1e-4).all()
    assert (answers["logp_policy"] <= 0).all()
    assert np.isfinite(answers["train_reward"]).all()


def test_steps_are_recorded_one_by_one(first: Outcome) -> None:
    steps = pd.read_parquet(first.record.path / "train.parquet")
    assert steps["step"].tolist() == [1, 2, 3]
    assert np.isfinite(steps[["loss", "grad_norm", "lr"]]).all(axis=None)
    assert steps["tokens"].is_monotonic_increasing


def test_tokens_are_those_of_the_selected_responses_with_their_prompts(
    store: Path, first: Outcome
) -> None:
    """One epoch over all four responses of the pool, counted from the pool itself."""
    (stage,) = [s for s in first.record.data["stages"] if s["role"] == "pool/train"]
    pool = pd.read_parquet(store / "stages" / "pool" / stage["id"] / "pool.parquet")
    wanted = pool["prompt_ids"].map(len).sum() + pool["response_ids"].map(len).sum()
    assert first.record.data["tokens_trained"] == wanted


def test_a_run_in_the_store_is_not_run_again(store: Path, first: Outcome) -> None:
    again = run(store)
    assert again.found
    assert again.record.path == first.record.path


def test_forced_runs_give_the_same_weights_and_answers_cache_warm_or_cold(
    store: Path, first: Outcome
) -> None:
    def content(outcome: Outcome) -> pd.DataFrame:
        return pd.read_parquet(outcome.record.path / "eval.parquet")

    warm = run(store, "force=true")
    cold = run(store, "force=all")
    assert (warm.record.revision, cold.record.revision) == (2, 3)
    for again in (warm, cold):
        assert again.same_weights is True
        assert again.record.data["policy"]["weights"] == first.record.data["policy"]["weights"]
        assert again.record.data["metrics"] == first.record.data["metrics"]
        pd.testing.assert_frame_equal(content(again), content(first))


def test_another_store_gives_the_same_run(tmp_path: Path, first: Outcome) -> None:
    """Nothing of the place, the order or what ran before enters a result."""
    other = run(tmp_path / "elsewhere")
    assert other.record.identity == first.record.identity
    assert other.record.data["policy"]["weights"] == first.record.data["policy"]["weights"]
    assert other.record.data["metrics"] == first.record.data["metrics"]


def test_another_seed_is_another_run(store: Path, first: Outcome) -> None:
    other = run(store, "seed=1")
    assert other.record.identity != first.record.identity
    assert other.record.data["policy"]["weights"] != first.record.data["policy"]["weights"]


@pytest.mark.parametrize(
    "words",
    [
        ["reward=labels", "objective=dpo"],
        ["reward=explicit"],
        ["reward=explicit", "reward.training.loss=regression", "reward.training.init=base"],
        ["reward=implicit", "reward.training.num_labels=20"],
    ],
    ids=lambda words: " ".join(words),
)
def test_every_reward_source_is_really_there(store: Path, words: list[str]) -> None:
    outcome = run(store, *words)
    data = outcome.record.data
    stages = {stage["role"]: stage["result"] for stage in data["stages"]}
    answers = pd.read_parquet(outcome.record.path / "eval.parquet")
    if data["reward"]["kind"] == "labels":
        assert "train_reward" not in answers
        return
    learnt = stages[f"reward_model/{data['reward']['kind']}"]
    assert learnt["labels"]["comparisons"] > 0
    for kind in ("id", "ood"):
        assert 0 <= learnt["held_out"][kind]["accuracy"] <= 1
    assert data["reward"]["scale"] > 0
    assert answers["train_reward"].std() > 0
    # a learnt source is not the judge in disguise
    assert abs(np.corrcoef(answers["train_reward"], answers["judge_score"])[0, 1]) < 0.999


@pytest.mark.parametrize(
    "objective", ["dpo", "ipo", "simpo", "kto", "rpo_fwd", "rpo_sq", "rpo_sqloo", "xpo"]
)
def test_every_objective_trains_its_own_policy(store: Path, first: Outcome, objective: str) -> None:
    # xpo sets one response of the four apart
    outcome = run(store, f"objective={objective}", *["num_responses=2"] * (objective == "xpo"))
    assert outcome.record.data["status"] == "done"
    steps = pd.read_parquet(outcome.record.path / "train.parquet")
    assert (steps["grad_norm"] > 0).all()
    assert outcome.record.data["policy"]["weights"] != first.record.data["policy"]["weights"]


def test_a_diverged_run_is_a_result_with_step_and_reason(store: Path) -> None:
    outcome = run(store, "training.lr=1e30", "training.max_grad_norm=null", "seed=5")
    data = outcome.record.data
    assert data["status"] == "diverged"
    assert data["divergence"]["step"] == 2
    assert "nan" in data["divergence"]["reason"]
    # scored at its last finite checkpoint: the initial weights, that is the SFT policy
    assert data["policy"]["step"] == 0
    assert data["metrics"]["kl"]["test"]["mean"] == pytest.approx(0, abs=1e-6)
    assert data["metrics"]["win_rate"]["test"]["mean"] == 0.5
    again = run(store, "training.lr=1e30", "training.max_grad_norm=null", "seed=5")
    assert again.found


@pytest.mark.parametrize(
    "words",
    [
        ["training.lr=1e30", "training.max_steps=1"],
        ["training.lr=3e38", "training.max_steps=1"],
        ["training.lr=1e30", "training.checkpoint_every=1"],
    ],
    ids=lambda words: " ".join(words),
)
def test_weights_that_the_last_update_blew_up_are_no_checkpoint(
    store: Path, words: list[str]
) -> None:
    data = run(store, *words, "training.max_grad_norm=null", "seed=5").record.data
    assert data["status"] == "diverged"
    assert data["divergence"]["step"] == 1
    assert data["policy"]["step"] == 0
    assert data["metrics"]["kl"]["test"]["mean"] == pytest.approx(0, abs=1e-6)


def test_the_best_checkpoint_on_valid_is_evaluated(store: Path) -> None:
    words = ["training.select_checkpoint=valid", "training.checkpoint_every=1"]
    data = run(store, *words).record.data
    selected = next(s["result"] for s in data["stages"] if s["role"] == "select")
    curve = {int(step): value for step, value in selected["valid_reward"].items()}
    assert list(curve) == [1, 2, 3]
    assert curve[data["policy"]["step"]] == max(curve.values())
    assert data["metrics"]["reward"]["valid"]["mean"] == pytest.approx(max(curve.values()))


def test_answers_of_the_choice_are_not_drawn_again(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What evaluation took from the choice is what the chosen checkpoint answers."""
    words = ["training.select_checkpoint=valid", "training.checkpoint_every=1"]
    outcome = run(store, *words)
    data = outcome.record.data
    stages = {s["role"]: s for s in data["stages"]}
    sizes = data["config"]["evaluation"]
    drawn = stages["evaluation"]["result"]["generated"]["responses"]
    assert drawn == sizes["num_test"] + sizes["num_ood"]
    answers = pd.read_parquet(outcome.record.path / "eval.parquet")
    # as after a choice of an earlier version, which kept no answers
    monkeypatch.setattr(evaluation, "known_answers", lambda _: pd.DataFrame({"split": []}))
    again = run(store, *words, "force=true")
    drawn = next(s for s in again.record.data["stages"] if s["role"] == "evaluation")
    whole_size = sizes["num_valid"] + sizes["num_test"] + sizes["num_ood"]
    assert drawn["result"]["generated"]["responses"] == whole_size
    whole = pd.read_parquet(again.record.path / "eval.parquet")
    pd.testing.assert_frame_equal(answers, whole, rtol=1e-5, atol=1e-5)


def test_a_model_from_a_folder_is_taken_as_it_is(store: Path, first: Outcome) -> None:
    sft = next(s for s in first.record.data["stages"] if s["role"] == "sft")
    folder = store / "stages" / "sft" / sft["id"] / "model"
    words = ["base_model=hf", f"base_model.path={folder}", "base_model.dtype=float32"]
    words.append("base_model.sft.steps=0")
    lr = first.record.data["config"]["training"]["lr"]
    outcome = run(store, *words, f"training.lr={lr}")
    found = next(s for s in outcome.record.data["stages"] if s["role"] == "sft")
    assert found["result"]["weights"] == weights_digest(folder)
    # the same SFT weights, pool and settings give the same policy by another road
    assert outcome.record.data["policy"]["weights"] == first.record.data["policy"]["weights"]


def test_a_missing_model_and_a_too_long_sequence_are_named(store: Path) -> None:
    with pytest.raises(ModelError, match="/nowhere/model does not exist"):
        run(store, "base_model=hf", "base_model.path=/nowhere/model")
    with pytest.raises(ModelError, match="12"):
        run(store, "base_model.context_length=12", "dataset.pool.sampling.max_new_tokens=10")


def preferences(path: Path, rows: int, responses: int = 3) -> Path:
    """A file of prompts with scored responses of which the longer is the better."""
    lines = [
        {
            "prompt": f"question {number}?",
            "responses": [f"answer {'x' * (length + 1)}" for length in range(responses)],
            "scores": [float(length) for length in range(responses)],
        }
        for number in range(rows)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


LOCAL = ["dataset=local", "dataset.judge_share=0.2", "dataset.valid_share=0.1",
         "dataset.test_share=0.1", "dataset.pool.sampling.max_new_tokens=12",
         "evaluation.num_valid=4", "evaluation.num_test=4"]  # fmt: skip


def run_local(store: Path, path: Path, *words: str) -> Outcome:
    kept = [word for word in SMALL if not word.startswith(("dataset.", "evaluation."))]
    config = compose([*kept, f"results_dir={store}", *LOCAL, f"dataset.path={path}", *words])
    legality.check(config)
    check_data(config)
    layout = Layout(store)
    return complete(plan(config, layout), layout)


def test_a_local_file_trains_and_is_judged_by_held_out_labels(tmp_path: Path) -> None:
    path = preferences(tmp_path / "prefs.jsonl", 80)
    outcome = run_local(tmp_path / "store", path, "num_responses=2")
    data = outcome.record.data
    assert data["status"] == "done"
    assert set(data["metrics"]["reward"]) == {"valid", "test"}
    roles = {stage["role"] for stage in data["stages"]}
    assert "reward_model/judge" in roles


def test_a_record_tells_of_every_stage_the_judges_sft_included(tmp_path: Path) -> None:
    path = preferences(tmp_path / "prefs.jsonl", 80)
    words = ["num_responses=2", "seed=1", "reward=gold"]
    outcome = run_local(tmp_path / "store", path, *words)
    roles = [stage["role"] for stage in outcome.record.data["stages"]]
    assert len(set(roles)) == len(roles)
    assert {"sft", "sft/judge", "pool/judge", "labels/judge"} <= set(roles)
    # scores of a file say nothing of new answers
    assert "train_reward" not in pd.read_parquet(outcome.record.path / "eval.parquet")


def test_a_local_pool_holds_at_most_so_many_responses(tmp_path: Path) -> None:
    path = preferences(tmp_path / "prefs.jsonl", 60, responses=5)
    with pytest.raises(DataError, match="num_responses is 3"):
        run_local(tmp_path / "s", path, "dataset.pool.num_responses=2", "num_responses=3")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["dataset.judge_share=0.01"], "'judge'.*dataset.judge_share"),
        (["reward=explicit", "dataset.reward_share=0.01"], "'reward'.*dataset.reward_share"),
    ],
)
def test_too_few_labels_are_told_before_any_work(
    tmp_path: Path, words: list[str], told: str
) -> None:
    path = preferences(tmp_path / "prefs.jsonl", 60)
    with pytest.raises(DataError, match=told):
        run_local(tmp_path / "store", path, "num_responses=2", *words)
    assert not (tmp_path / "store").exists()


def test_a_file_of_ties_is_told_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "ties.jsonl"
    rows = [{"prompt": f"q{i}", "responses": ["a", "b"], "scores": [1.0, 1.0]} for i in range(50)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError, match=r"'train'.*differ in score"):
        run_local(tmp_path / "store", path, "num_responses=2")


def test_k_beyond_the_responses_of_a_file_names_both_and_how_many(tmp_path: Path) -> None:
    path = preferences(tmp_path / "prefs.jsonl", 60, responses=3)
    with pytest.raises(DataError, match=r"num_responses is 4.*fewer.*3"):
        run_local(tmp_path / "store", path, "num_responses=4")
    assert not (tmp_path / "store").exists()


def test_the_store_reads_back_as_frames(store: Path, first: Outcome) -> None:
    runs = load(store)
    row = runs[runs["id"] == first.record.identity].iloc[0]
    assert row["objective"] == "rpo_bwd"
    assert row["num_responses"] == 4
    assert row["reward/test"] == first.record.data["metrics"]["reward"]["test"]["mean"]
    assert row["config.objective.beta"] == first.record.data["config"]["objective"]["beta"]
    ids = [first.record.identity]
    assert len(load_eval(store, ids)) == 28
    assert load_train(store, ids)["step"].tolist() == [1, 2, 3]
