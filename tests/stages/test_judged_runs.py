"""Whole small runs with judges that are no rule: over HTTP, and classifiers of one's own."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from ablate.cli import show
from ablate.config import legality
from ablate.config.compose import compose
from ablate.errors import JudgeError, ModelError
from ablate.models.tokenizer import build_tokenizer
from ablate.stages.complete import Outcome, complete
from ablate.stages.graph import plan
from ablate.stages.judging import check_judge
from ablate.stages.preflight import check_data
from ablate.store.layout import Layout
from endpoint import Endpoint, quality
from smallrun import SMALL

KEY = "sk-77aa-nobody-may-read-this"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint()
    yield served
    served.close()


def run(store: Path, *words: str, small: list[str] = SMALL) -> Outcome:
    config = compose([*small, f"results_dir={store}", *words])
    legality.check(config)
    check_data(config)
    check_judge.__wrapped__(config.judge, config.runtime.device)
    layout = Layout(store)
    return complete(plan(config, layout), layout)


def asked_at(endpoint: Endpoint, *words: str, level: str = "http") -> list[str]:
    return [f"judge={level}", f"judge.url={endpoint.url()}", "judge.model=m", "judge.retries=1",
            "judge.backoff=0.01", *words]  # fmt: skip


def table(store: Path, outcome: Outcome, role: str, file: str) -> pd.DataFrame:
    (stage,) = [s for s in outcome.record.data["stages"] if s["role"] == role]
    return pd.read_parquet(store / "stages" / stage["name"] / stage["id"] / file)


def judging(outcome: Outcome) -> dict[str, dict[str, Any]]:
    stages = outcome.record.data["stages"]
    return {s["role"]: s["result"]["judging"] for s in stages if "judging" in s["result"]}


def leaked(store: Path, secret: str) -> list[Path]:
    return [p for p in store.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


def test_a_run_judged_over_http_and_all_that_it_shares(
    store: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("ABLATE_TEST_KEY", KEY)
    endpoint.key = KEY
    words = asked_at(endpoint, "judge.api_key_env=ABLATE_TEST_KEY")
    first = run(store, *words)

    # labels, baseline and evaluation all carry this judge's marks
    labels = table(store, first, "labels/train", "labels.parquet")
    pool = table(store, first, "pool/train", "pool.parquet")
    expected = [round(quality(text), 2) for text in pool["response"]]
    np.testing.assert_allclose(labels["label"], expected)
    answers = pd.read_parquet(first.record.path / "eval.parquet")
    for score, text in (("judge_score", "response"), ("baseline_score", "baseline_response")):
        np.testing.assert_allclose(answers[score], [round(quality(t), 2) for t in answers[text]])

    done = judging(first)
    counts = {"labels/train": 96, "labels/pairs": 24, "answers": 28, "evaluation": 28}
    assert {role: entry["judged"] for role, entry in done.items()} == counts
    assert sum(entry["asked"] for entry in done.values()) == len(endpoint.asked)
    assert done["evaluation"]["asked"] + done["evaluation"]["from_cache"] <= 28

    # another arm asks only about answers that are new; the judge may have moved
    known = len(endpoint.asked)
    other = run(store, *words, "judge.concurrency=2", "objective=dpo")
    new = judging(other)["evaluation"]
    assert len(endpoint.asked) == known + new["asked"]
    assert judging(other)["labels/train"] == done["labels/train"], "the stage is shared"

    # all again from nothing but the memory: nothing is asked, the result is the same
    asked = len(endpoint.asked)
    shutil.rmtree(store / "stages" / "labels")
    shutil.rmtree(store / "stages" / "answers")
    again = run(store, *words, "force=all")
    assert len(endpoint.asked) == asked
    assert again.record.data["metrics"] == first.record.data["metrics"]
    assert again.same_weights is True

    assert leaked(store, KEY) == []
    show.main([first.record.identity, f"results_dir={store}"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "96 answers judged in" in shown
    assert "ABLATE_TEST_KEY" in shown
    endpoint.key = None


def test_an_endpoint_that_fails_in_the_middle_fails_the_stage_whole(
    tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABLATE_TEST_KEY", KEY)
    words = asked_at(endpoint, "judge.api_key_env=ABLATE_TEST_KEY", "judge.concurrency=1", "seed=4")
    endpoint.asked.clear()
    endpoint.script = [200] * 30 + [500] * 2
    with pytest.raises(JudgeError, match=r"HTTP 500.*after 2 attempts") as caught:
        run(tmp_path, *words)
    assert "30 of" in str(caught.value)
    assert "kept" in str(caught.value)
    assert not (tmp_path / "stages" / "labels").exists()
    (failure,) = tmp_path.glob("attempts/*/*/failure.json")
    assert "HTTP 500" in json.loads(failure.read_text())["reason"]

    outcome = run(tmp_path, *words)
    done = judging(outcome)["labels/train"]
    assert done["from_cache"] == 30
    assert len(set(endpoint.asked)) == len(endpoint.asked), "nothing twice"
    assert leaked(tmp_path, KEY) == []


def test_a_judge_that_compares_sets_answers_beside_those_of_sft(
    store: Path, endpoint: Endpoint
) -> None:
    words = asked_at(endpoint, level="http_pairwise")
    select = ["training.select_checkpoint=valid", "training.checkpoint_every=2"]
    outcome = run(store, *words, *select)
    labels = table(store, outcome, "labels/train", "labels.parquet")
    assert labels["label"].between(0, 1).all()
    # every win within a prompt is another's loss
    assert labels.groupby("prompt_id")["label"].mean().to_numpy() == pytest.approx(0.5)
    answers = pd.read_parquet(outcome.record.path / "eval.parquet")
    assert (answers["baseline_score"] == 0.5).all()
    same = answers["response"] == answers["baseline_response"]
    assert (answers.loc[same, "judge_score"] == 0.5).all()
    gap = [quality(a) - quality(b) for a, b in
           zip(answers["response"], answers["baseline_response"], strict=True)]  # fmt: skip
    wins = np.where(np.abs(gap) < 0.5, 0.5, np.where(np.array(gap) > 0, 1.0, 0.0))
    np.testing.assert_array_equal(answers["judge_score"][~same], wins[~same])
    win_rate = outcome.record.data["metrics"]["win_rate"]["test"]["mean"]
    assert win_rate == pytest.approx(answers[answers["split"] == "test"]["judge_score"].mean())
    assert judging(outcome)["answers"]["asked"] == 0
    assert "baseline" in plan(compose([*SMALL, f"results_dir={store}", *words, *select]),
                              Layout(store)).evaluation.inputs["select"].inputs  # fmt: skip


def test_fresh_responses_and_the_curve_are_judged_by_the_same_judge(
    store: Path, endpoint: Endpoint
) -> None:
    """Online, rewarded by wins among the drawn responses; the curve is the win rate against SFT."""
    words = ["collection=online", "collection.curve_every=1", "training.max_steps=2",
             "num_responses=2"]  # fmt: skip
    outcome = run(store, *asked_at(endpoint, level="http_pairwise"), *words)
    curve = table(store, outcome, "policy", "curve.parquet")["judge_reward"]
    assert len(curve) > 0
    assert curve.between(0, 1).all()
    # before the first step the policy is the SFT policy, and all are draws
    assert curve.iloc[0] == 0.5


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier with a byte tokenizer and ChatML, whatever it may like."""
    folder = tmp_path_factory.mktemp("reward-model")
    tokenizer = build_tokenizer(None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    torch.manual_seed(1)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=512, num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    LlamaForSequenceClassification(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def score_of(folder: Path, turns: list[dict[str, str]], response: str) -> float:
    """As a model card has it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForSequenceClassification.from_pretrained(folder)
    turns = [*turns, {"role": "assistant", "content": response}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return float(model(ids).logits[0, 0])


def test_a_run_judged_by_a_classifier_with_a_template_of_its_own(
    store: Path, reward_model: Path
) -> None:
    words = ["judge=hf", f"judge.path={reward_model}"]
    first = run(store, *words)
    answers = pd.read_parquet(first.record.path / "eval.parquet")
    for row in answers.head(3).itertuples():
        user = [{"role": "user", "content": row.prompt}]
        expected = score_of(reward_model, user, row.response)
        assert row.judge_score == pytest.approx(expected, abs=1e-4)
    done = judging(first)
    assert done["labels/train"]["judged"] == 96
    shutil.rmtree(store / "stages" / "labels")
    again = run(store, *words, "force=all")
    assert again.record.data["metrics"] == first.record.data["metrics"]
    assert sum(entry["asked"] for entry in judging(again).values()) == 0
    # batches are no part of a judge, what it reads is
    same = plan(compose([*SMALL, f"results_dir={store}", *words, "judge.batch_tokens=99"]),
                Layout(store))  # fmt: skip
    assert same.identity == first.record.identity
    other = plan(compose([*SMALL, f"results_dir={store}", *words, "judge.too_long=truncate"]),
                 Layout(store))  # fmt: skip
    assert other.identity != first.record.identity


def test_a_classifier_that_cannot_judge_is_refused_before_any_work(
    tmp_path: Path, reward_model: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(reward_model, broken)
    build = AutoTokenizer.from_pretrained(reward_model)
    build.add_tokens(["one", "more"])
    build.save_pretrained(broken)
    with pytest.raises(ModelError, match="does not fit its model"):
        run(tmp_path / "store", "judge=hf", f"judge.path={broken}")
    assert not (tmp_path / "store").exists()


LOCAL = ["dataset=local", "dataset.valid_share=0.1", "dataset.test_share=0.1",
         "dataset.pool.sampling.max_new_tokens=12", "evaluation.num_valid=4",
         "evaluation.num_test=4", "num_responses=2"]  # fmt: skip
KEPT = [word for word in SMALL if not word.startswith(("dataset.", "evaluation."))]


def test_a_files_responses_can_be_labelled_by_the_judge(tmp_path: Path, endpoint: Endpoint) -> None:
    """The file says the first is better; the judge decides, and its marks are the reward."""
    rows = [
        {"prompt": f"question {n}?", "chosen": f"no {n}", "rejected": f"certainly {n}"}
        for n in range(60)
    ]
    path = tmp_path / "prefs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    words = [*LOCAL, f"dataset.path={path}", *asked_at(endpoint), "dataset.labelled_by=judge",
             "reward=gold"]  # fmt: skip
    outcome = run(tmp_path / "store", *words, small=KEPT)
    pool = table(tmp_path / "store", outcome, "pool/train", "pool.parquet")
    labels = table(tmp_path / "store", outcome, "labels/train", "labels.parquet")
    expected = [round(quality(text), 2) for text in pool["response"]]
    np.testing.assert_allclose(labels["label"], expected)
    answers = pd.read_parquet(outcome.record.path / "eval.parquet")
    assert "train_reward" in answers, "the judge knows what new answers are worth"


def talks(path: Path, rows: int) -> Path:
    """Conversations of several turns, the responses as texts."""
    lines = [
        {
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"Hello {n}"},
                {"role": "assistant", "content": "Hi."},
                {"role": "user", "content": "Name a city."},
            ],
            "chosen": f"Oslo {n}",
            "rejected": f"no {n}",
        }
        for n in range(rows)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_a_conversation_reaches_a_classifier_as_its_own_template_writes_it(
    tmp_path: Path, reward_model: Path
) -> None:
    path = talks(tmp_path / "talks.jsonl", 60)
    words = [*LOCAL, f"dataset.path={path}", "judge=hf", f"judge.path={reward_model}",
             "dataset.labelled_by=judge", "reward=gold"]  # fmt: skip
    outcome = run(tmp_path / "store", *words, small=KEPT)
    labels = table(tmp_path / "store", outcome, "labels/train", "labels.parquet")
    pool = table(tmp_path / "store", outcome, "pool/train", "pool.parquet")
    for row, label in list(zip(pool.itertuples(), labels["label"], strict=True))[:3]:
        number = row.response.split()[-1]
        turns = json.loads(row.messages)
        assert [turn["content"] for turn in turns] == [
            "Be brief.", f"Hello {number}", "Hi.", "Name a city.",
        ]  # fmt: skip
        assert label == pytest.approx(score_of(reward_model, turns, row.response), abs=1e-4)


def test_a_conversation_reaches_an_endpoint_turn_by_turn(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    path = talks(tmp_path / "talks.jsonl", 60)
    words = [*LOCAL, f"dataset.path={path}", "dataset.labelled_by=judge", "reward=gold"]
    reward = [*asked_at(endpoint, level="http_reward")]
    reward[1] = f"judge.url={endpoint.url('/rewards')}"
    endpoint.bodies.clear()
    run(tmp_path / "store", *words, *reward, small=KEPT)
    sent = [item for body in endpoint.bodies for item in body["inputs"]]
    assert {tuple(turn["role"] for turn in item["messages"]) for item in sent} == {
        ("system", "user", "assistant", "user")
    }
    assert all(item["messages"][-1]["content"] == "Name a city." for item in sent)

    endpoint.bodies.clear()
    run(tmp_path / "store", *words, *asked_at(endpoint), small=KEPT)
    question = endpoint.bodies[0]["messages"][0]["content"]
    assert "[Asked]\nsystem: Be brief.\n\nuser: Hello" in question
    assert "assistant: Hi.\n\nuser: Name a city.\n\n[Answered]\n" in question
