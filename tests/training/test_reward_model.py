"""Reward models: TRL's Bradley–Terry loss, regression, and scores that rank."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ablate.errors import ConfigError, DataError
from ablate.models.loading import save_model, weights_digest
from ablate.models.scoring import load_reward_model, score_responses
from ablate.training.reward_model import Comparison, ScoredResponse, train_reward_model


@pytest.fixture
def start(make_model, tokenizer, tmp_path):
    save_model(make_model(), tokenizer, tmp_path / "sft")
    return tmp_path / "sft"


def _settings(loss, **changes):
    return SimpleNamespace(**{"loss": loss, "lr": 5e-3, "batch_size": 16, "epochs": 4, **changes})


def _comparisons(count=64):
    """The better response holds the letter 5 more often."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        body = [int(token) for token in rng.integers(6, 13, 4)]
        prompt = [1, int(rng.integers(5, 13)), 3]
        made.append(Comparison(prompt, [5, *body[: int(rng.integers(1, 4))], 2], [*body, 2]))
    return made


def test_bradley_terry_learns_to_rank(start, tokenizer, tmp_path, capfd):
    comparisons = _comparisons()
    model, table = train_reward_model(
        start, tokenizer, comparisons, _settings("bradley_terry"), seed=0, work_dir=tmp_path,
        device="cpu",
    )  # fmt: skip
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
    assert table["loss"].iloc[0] == pytest.approx(np.log(2), abs=0.3)
    chosen = [(c.prompt_ids, c.chosen_ids) for c in comparisons]
    rejected = [(c.prompt_ids, c.rejected_ids) for c in comparisons]
    gap = score_responses(model, tokenizer, chosen, 32) - score_responses(
        model, tokenizer, rejected, 32
    )
    assert (gap > 0).mean() > 0.9
    assert len(table) == 16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sft"]


def test_first_loss_is_minus_log_sigmoid_of_the_initial_gap(start, tokenizer, tmp_path):
    comparisons = _comparisons(8)
    frozen = _settings("bradley_terry", lr=1e-12, batch_size=8, epochs=1)
    model, table = train_reward_model(
        start, tokenizer, comparisons, frozen, seed=0, work_dir=tmp_path, device="cpu"
    )
    chosen = score_responses(
        model, tokenizer, [(c.prompt_ids, c.chosen_ids) for c in comparisons], 8
    )
    rejected = score_responses(
        model, tokenizer, [(c.prompt_ids, c.rejected_ids) for c in comparisons], 8
    )
    expected = np.log1p(np.exp(-(chosen - rejected))).mean()
    assert table["loss"].iloc[0] == pytest.approx(expected, rel=1e-4)


def test_regression_returns_the_scores(start, tokenizer, tmp_path):
    rng = np.random.default_rng(1)
    examples = []
    for _ in range(64):
        count = int(rng.integers(0, 5))
        body = [5] * count + [7] * (4 - count)
        examples.append(ScoredResponse([1, 6, 3], [*body, 2], float(count) - 2))
    model, table = train_reward_model(
        start, tokenizer, examples, _settings("regression", epochs=12), seed=0, work_dir=tmp_path,
        device="cpu",
    )  # fmt: skip
    assert table["correlation"].iloc[-1] > 0.9
    scores = score_responses(
        model, tokenizer, [(e.prompt_ids, e.response_ids) for e in examples], 16
    )
    assert np.mean((scores - [e.score for e in examples]) ** 2) < 0.5


def test_reward_training_repeats_and_survives_the_disk(start, tokenizer, tmp_path):
    models = []
    for seed in (0, 0, 1):
        torch.rand(seed + 1)
        models.append(
            train_reward_model(
                start, tokenizer, _comparisons(16), _settings("bradley_terry", epochs=1),
                seed=seed, work_dir=tmp_path, device="cpu",
            )[0]
        )  # fmt: skip
    digests = [weights_digest(model) for model in models]
    assert digests[0] == digests[1] != digests[2]
    save_model(models[0], tokenizer, tmp_path / "rm")
    again = load_reward_model(tmp_path / "rm", device="cpu")
    pairs = [([1, 6, 3], [5, 5, 2]), ([1, 3], [7, 2])]
    assert np.array_equal(
        score_responses(again, tokenizer, pairs, 2), score_responses(models[0], tokenizer, pairs, 2)
    )


def test_the_wrong_kind_of_labels_is_refused(start, tokenizer, tmp_path):
    def train(examples, loss):
        return train_reward_model(
            start, tokenizer, examples, _settings(loss), seed=0, work_dir=tmp_path
        )

    with pytest.raises(DataError, match="ScoredResponse"):
        train(_comparisons(2), "regression")
    with pytest.raises(ConfigError, match="loss=dpo"):
        train(_comparisons(2), "dpo")
    with pytest.raises(DataError, match="no labels"):
        train([], "bradley_terry")
    with pytest.raises(DataError, match="not finite"):
        train([ScoredResponse([1], [2], float("nan"))], "regression")
