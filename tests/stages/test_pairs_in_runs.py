"""Labelled pairs, references and annotators at evaluation, recomputed from what a run stored."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.config.compose import compose
from ablate.metrics import METRICS
from ablate.models.loading import load_model
from ablate.models.logps import response_logps, token_kl
from ablate.models.tokenizer import encode_prompt, load_tokenizer
from ablate.stages.complete import Outcome, complete
from ablate.stages.graph import plan
from ablate.store.layout import Layout
from smallrun import SMALL

GROUPS = ("dataset.labels.annotators=[{name: terse, share: 1, length: -1, nuisance: 0, taste: 0},"
          "{name: chatty, share: 2, length: 1, nuisance: 0, taste: 0}]")  # fmt: skip
FLIPPED = "dataset.labels.flip_rate=0.3"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def run(store: Path, *words: str) -> Outcome:
    layout = Layout(store)
    return complete(plan(compose([*SMALL, f"results_dir={store}", *words]), layout), layout)


@pytest.fixture(scope="module")
def rounds(store: Path) -> Outcome:
    return run(store, "collection=iterative", GROUPS, FLIPPED, "evaluation.pair_responses=4")


def folder(store: Path, outcome: Outcome, role: str) -> Path:
    (stage,) = [s for s in outcome.record.data["stages"] if s["role"] == role]
    return store / "stages" / stage["name"] / stage["id"]


def chosen(path: Path) -> Path:
    return path / f"step-{json.loads((path / 'result.json').read_text())['last']}"


def last_two(store: Path, outcome: Outcome) -> list[Path]:
    """The policies of the last round and of the round before it."""
    policies = [s for s in outcome.record.data["stages"] if s["name"] == "policy"]
    return [chosen(store / "stages" / "policy" / s["id"]) for s in (policies[-1], policies[-2])]


def test_the_pairs_are_the_best_label_and_one_below_it(store: Path, rounds: Outcome) -> None:
    pairs = pd.read_parquet(rounds.record.path / "pairs.parquet")
    assert set(pairs["split"]) == {"train", "test"}
    for split, roles, by in (
        ("train", ("pool/round 1", "labels/round 1"), "label"),
        ("test", ("pool/pairs", "labels/pairs"), "clean"),
    ):
        pool, labels = (
            pd.read_parquet(next(folder(store, rounds, role).glob(f"{name}.parquet")))
            for role, name in zip(roles, ("pool", "labels"), strict=True)
        )
        both = pool.merge(labels, on=["prompt_id", "index"]).groupby("prompt_id")
        untied = {name for name, rows in both if rows[by].nunique() > 1}
        mine = pairs[pairs["split"] == split]
        assert set(mine["prompt_id"]) == untied
        for row in mine.itertuples():
            rows = both.get_group(row.prompt_id)
            assert row.label_chosen == rows[by].max() > row.label_rejected
            assert row.response_chosen in rows.loc[rows[by] == rows[by].max(), "response"].tolist()
            assert row.response_rejected in rows["response"].tolist()


def test_their_log_probs_are_those_of_the_policy_and_its_last_reference(
    store: Path, rounds: Outcome
) -> None:
    pairs = pd.read_parquet(rounds.record.path / "pairs.parquet")
    test = pairs[pairs["split"] == "test"]
    pool = pd.read_parquet(folder(store, rounds, "pool/pairs") / "pool.parquet")
    ids = {(row.prompt_id, row.response): (list(row.prompt_ids), list(row.response_ids))
           for row in pool.itertuples()}  # fmt: skip
    for name, path in zip(("policy", "ref"), last_two(store, rounds), strict=True):
        model, tokenizer = load_model(path, device="cpu"), load_tokenizer(str(path))
        for side in ("chosen", "rejected"):
            keys = zip(test["prompt_id"], test[f"response_{side}"], strict=True)
            items = [(prompt, [response]) for prompt, response in (ids[key] for key in keys)]
            wanted = [row[0] for row in response_logps(model, tokenizer, items, 4096)]
            assert test[f"logp_{name}_{side}"].tolist() == pytest.approx(wanted, abs=1e-4)
            assert test[f"num_tokens_{side}"].tolist() == [len(r[0]) for _, r in items]
    columns = {str(name): test[name].to_numpy() for name in test.columns}
    for name in ("ranking_accuracy", "implicit_reward_accuracy", "chosen_lost"):
        compute = METRICS[name].compute
        assert compute is not None
        assert rounds.record.data["metrics"][name]["test"]["mean"] == compute(columns).mean


def test_a_round_has_two_divergences_and_an_offline_run_one(store: Path, rounds: Outcome) -> None:
    answers = pd.read_parquet(rounds.record.path / "eval.parquet")
    assert not np.allclose(answers["kl"], answers["kl_reference"])
    policy, before = (load_model(path, device="cpu") for path in last_two(store, rounds))
    tokenizer = load_tokenizer(str(last_two(store, rounds)[0]))
    whole = answers[~answers["truncated"]].head(3)
    items = []
    for row in whole.itertuples():
        text = tokenizer(row.response, add_special_tokens=False)["input_ids"]
        items.append((encode_prompt(tokenizer, row.prompt), [[*text, tokenizer.eos_token_id]]))
    assert [len(i[1][0]) for i in items] == whole["num_tokens"].tolist()
    wanted = [row[0].kl for row in token_kl(policy, before, tokenizer, items, 4096)]
    assert whole["kl_reference"].tolist() == pytest.approx(wanted, abs=1e-4)
    plain = pd.read_parquet(run(store).record.path / "eval.parquet")
    assert (plain["kl"] == plain["kl_reference"]).all()


def test_annotators_value_answers_in_the_units_of_the_training_labels(
    store: Path, rounds: Outcome
) -> None:
    answers = pd.read_parquet(rounds.record.path / "eval.parquet")
    pool = pd.read_parquet(folder(store, rounds, "pool/round 1") / "pool.parquet")
    labels = pd.read_parquet(folder(store, rounds, "labels/round 1") / "labels.parquet")
    both = pool.merge(labels, on=["prompt_id", "index"])
    # a group's liking is linear in length: the training labels give the slope
    length = both["response"].str.len()
    slope, zero = np.polyfit(length, both["label_chatty"] - both["clean"], 1)
    wanted = answers["judge_score"] + zero + slope * answers["num_chars"]
    np.testing.assert_allclose(answers["utility_chatty"], wanted, atol=1e-6)
    wanted = answers["baseline_score"] - zero - slope * answers["baseline_response"].str.len()
    np.testing.assert_allclose(answers["baseline_utility_terse"], wanted, atol=1e-6)


def test_the_sft_policy_s_training_reward_is_on_the_same_scale(store: Path) -> None:
    answers = pd.read_parquet(run(store).record.path / "eval.parquet")
    slope, zero = np.polyfit(answers["judge_score"], answers["train_reward"], 1)
    wanted = zero + slope * answers["baseline_score"]
    np.testing.assert_allclose(answers["baseline_train_reward"], wanted, atol=1e-6)


def test_a_run_without_pairs_has_no_table_of_them(store: Path) -> None:
    record = run(store, "evaluation.num_pairs=0").record
    assert not (record.path / "pairs.parquet").exists()
    assert "ranking_accuracy" not in record.data["metrics"]
