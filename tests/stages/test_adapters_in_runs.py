"""Runs with adapters: one copy of the base weights serves policy and reference."""

import gc
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ablate.models.loading import load_model
from ablate.models.logps import response_logps, token_kl
from ablate.models.tokenizer import encode_prompt, load_tokenizer
from ablate.rewards.scorers import ImplicitScorer
from ablate.rewards.table import Answer
from ablate.stages.complete import Outcome
from ablate.stages.context import Report
from ablate.stages.stage import Stage
from smallrun import run

LORA = ["base_model.lora={r: 4, alpha: 8, target_modules: all-linear}", "training.lr=1e-2"]
ONLINE = ["collection=online", "training.epochs=1", "collection.curve_every=1",
          "collection.curve_prompts=4"]  # fmt: skip


class Copies:
    """Counts the word embeddings in memory whenever a stage reports."""

    def __init__(self) -> None:
        self.most: dict[str, int] = {}
        self.last: dict[str, int] = {}

    def start(self, stage: Stage) -> Report:
        def report(done: int, total: int, metrics: dict[str, float]) -> None:
            self.last[stage.name] = len(set(self._embeddings()))
            self.most[stage.name] = max(self.last[stage.name], self.most.get(stage.name, 0))

        return report

    def finish(self, stage: Stage, seconds: float, found: bool) -> None:
        return None

    @staticmethod
    def _embeddings() -> Iterator[int]:
        gc.collect()
        for thing in gc.get_objects():
            if isinstance(thing, torch.nn.Embedding):
                yield thing.weight.data_ptr()


def compared_apart(store: Path, outcome: Outcome) -> tuple[pd.DataFrame, list[float]]:
    """Stored answers, and their KL under the merged weights and SFT's, each a model of its own."""
    stages = {stage["role"]: stage for stage in outcome.record.data["stages"]}
    folders = {role: store / "stages" / s["name"] / s["id"] for role, s in stages.items()}
    step = json.loads((folders["evaluation"] / "result.json").read_text())["step"]
    policy = load_model(folders["policy"] / f"step-{step}", device="cpu")
    sft = load_model(folders["sft"] / "model", device="cpu")
    tokenizer = load_tokenizer(str(folders["sft"] / "model"))
    answers = pd.read_parquet(outcome.record.path / "eval.parquet")
    items, whole = [], []
    for row in answers.itertuples():
        ids = [*tokenizer.convert_tokens_to_ids(row.response.split()), tokenizer.eos_token_id]
        # texts leave out special tokens: such an answer cannot be encoded again
        whole.append(not row.truncated and len(ids) == row.num_tokens)
        if whole[-1]:
            items.append((encode_prompt(tokenizer, row.prompt), [ids]))
    answers = answers[whole]
    return answers, [row[0].kl for row in token_kl(policy, sft, tokenizer, items, 4096)]


def test_training_curve_and_evaluation_hold_the_base_weights_once(store: Path) -> None:
    counted = Copies()
    outcome = run(store, *ONLINE, *LORA, display=counted)
    # the last report of an evaluation comes after both models were compared
    assert (counted.most["policy"], counted.last["evaluation"]) == (1, 1)
    answers, apart = compared_apart(store, outcome)
    assert len(answers) >= 10
    assert answers["kl"].tolist() == pytest.approx(apart, abs=1e-3)
    assert max(apart) > 0.05
    curve = pd.read_parquet(outcome.record.path / "curve.parquet")
    assert curve["kl"].iloc[0] == pytest.approx(0, abs=1e-6)
    assert curve["kl"].iloc[-1] > 1e-3


def test_without_adapters_a_reference_is_a_second_copy(store: Path) -> None:
    """The counts above can fail. The curve takes the frozen reference where that is SFT."""
    counted = Copies()
    run(store, *ONLINE, display=counted)
    assert (counted.most["policy"], counted.last["evaluation"]) == (2, 2)


IMPLICIT = ["reward=implicit", "reward.training.lr=1e-2"]


@pytest.mark.parametrize(("settings", "copies"), [(LORA, 1), ([], 2)])
def test_an_implicit_reward_scores_on_the_same_base_weights(
    store: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], copies: int
) -> None:
    """Scores are beta log(pi/pi_ref) of the merged weights, each a model of its own."""
    counted, while_scoring = Copies(), list[int]()
    score = ImplicitScorer.score

    def counting(self: ImplicitScorer, answers: Sequence[Answer]) -> np.ndarray:
        while_scoring.append(len(set(counted._embeddings())))
        return score(self, answers)

    monkeypatch.setattr(ImplicitScorer, "score", counting)
    outcome = run(store, *IMPLICIT, *settings, display=counted)
    # in the middle of training it is its own reference; held-out labels, then the pool
    assert counted.most["reward_model"] == 1
    assert while_scoring[0] == while_scoring[2] == copies
    stages = {stage["role"]: stage for stage in outcome.record.data["stages"]}
    folders = {role: store / "stages" / s["name"] / s["id"] for role, s in stages.items()}
    scores = pd.read_parquet(folders["scores"] / "scores.parquet")
    pool = pd.read_parquet(folders["pool/train"] / "pool.parquet").merge(scores)
    models = [folders["reward_model/implicit"] / "model", folders["sft"] / "model"]
    items = [(r.prompt_ids.tolist(), [r.response_ids.tolist()]) for r in pool.itertuples()]
    tokenizer = load_tokenizer(str(models[1]))
    policy, sft = (
        response_logps(load_model(folder, device="cpu").eval(), tokenizer, items, 4096)
        for folder in models
    )
    beta = json.loads((folders["reward_model/implicit"] / "result.json").read_text())["beta"]
    wanted = [beta * (a[0] - b[0]) for a, b in zip(policy, sft, strict=True)]
    assert pool["raw"].tolist() == pytest.approx(wanted, abs=1e-4)
    assert pool["raw"].std() > 1e-3


def test_adapters_of_a_later_round_lie_on_those_before(store: Path) -> None:
    """KL is to SFT and to the last reference: copies of their own, and the number is right."""
    counted = Copies()
    words = ["collection=iterative", "collection.rounds=2", "collection.round_prompts=0.5",
             "collection.new_prompts=[1,1]", "training.batch_size=6"]  # fmt: skip
    outcome = run(store, *words, *LORA, display=counted)
    assert counted.last["evaluation"] == 3
    answers, apart = compared_apart(store, outcome)
    assert answers["kl"].tolist() == pytest.approx(apart, abs=1e-5)
