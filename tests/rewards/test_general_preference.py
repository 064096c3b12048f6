"""The general preference model: antisymmetry, and a circle that no scalar reward can hold."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ablate.models.loading import save_model
from ablate.rewards.agreement import pairwise_agreement
from ablate.rewards.scorers import GeneralPreference, RewardModelScorer
from ablate.rewards.sources import PreferenceSource
from ablate.rewards.table import Answer
from ablate.training.reward_model import Comparison, train_reward_model
from ablate.trl_compat.reward import preference_scores

BEATS = [("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")]
PROMPTS = ["play", "play now", "now play", "yes play", "play ok", "ok now"]


def train(
    answer: Callable[..., Answer], start: Path, tokenizer: Any, folder: Path, loss: str
) -> Path:
    comparisons = [
        Comparison(
            answer(prompt, better).prompt_ids,
            answer(prompt, better).response_ids,
            answer(prompt, worse).response_ids,
        )
        for prompt in PROMPTS[:-1]
        for better, worse in BEATS
    ]
    settings = SimpleNamespace(loss=loss, lr=5e-3, batch_size=15, epochs=30)
    circle = loss == "preference"
    model, table = train_reward_model(
        start, tokenizer, comparisons, settings, seed=0, work_dir=folder, device="cpu",
        outputs=2 if circle else 1, tau=1.0 if circle else None,
    )  # fmt: skip
    assert np.isfinite(table["loss"]).all()
    save_model(model, tokenizer, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def answers(answer: Callable[..., Answer]) -> list[Answer]:
    """Three answers to each prompt, the last of which was not trained on."""
    return [answer(prompt, better) for prompt in PROMPTS for better, _ in BEATS]


@pytest.fixture(scope="module")
def learnt(
    answer: Callable[..., Answer],
    start: Path,
    tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> GeneralPreference:
    folder = tmp_path_factory.mktemp("gpm")
    return GeneralPreference(train(answer, start, tokenizer, folder, "preference"), "cpu", 1.0)


def test_rock_paper_scissors_is_learnt(learnt: GeneralPreference, answers: list[Answer]) -> None:
    """Also for a prompt that training has not seen."""
    lines = learnt.compare(answers)
    for place in range(0, len(answers), 3):
        wins = dict(zip(["rock", "scissors", "paper"], lines[place : place + 3], strict=True))
        column = {"rock": 0, "scissors": 1, "paper": 2}
        for better, worse in BEATS:
            assert wins[better][column[worse]] > 0.9


def test_no_scalar_reward_holds_a_circle(
    answer: Callable[..., Answer],
    answers: list[Answer],
    start: Path,
    tokenizer: Any,
    tmp_path: Path,
) -> None:
    scorer = RewardModelScorer(train(answer, start, tokenizer, tmp_path, "bradley_terry"), "cpu")
    scores = scorer.score(answers).reshape(-1, 3)
    place = {"rock": 0, "scissors": 1, "paper": 2}
    for row in scores:
        right = sum(row[place[better]] > row[place[worse]] for better, worse in BEATS)
        assert right <= 2


def test_probabilities_are_those_of_two_and_sum_to_one(
    learnt: GeneralPreference, answers: list[Answer]
) -> None:
    table = PreferenceSource(learnt).table(answers, lambda part: part.score(answers))
    assert table.win_probs is not None
    for place in range(0, len(answers), 3):
        wins = np.array(table.win_probs[place : place + 3])
        np.testing.assert_allclose(wins + wins.T, 1, atol=1e-6)
        np.testing.assert_allclose(np.diag(wins), 0.5)
        # the reward is the mean over the two others
        mean = (wins.sum(axis=1) - 0.5) / 2
        assert table.reward is not None
        np.testing.assert_allclose(table.reward[place : place + 3], mean)


def test_the_order_of_answers_and_prompts_does_not_matter(
    learnt: GeneralPreference, answers: list[Answer]
) -> None:
    order = np.random.default_rng(0).permutation(len(answers))
    mixed = learnt.compare([answers[place] for place in order])
    plain = learnt.compare(answers)
    for new, old in enumerate(order):
        mates = [p for p in order if answers[p].prompt_id == answers[old].prompt_id]
        expected = [plain[old][p % 3] for p in mates]
        np.testing.assert_allclose(mixed[new], expected, atol=1e-6)


def test_scores_are_v_r_w_with_a_skew_symmetric_r() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 7, 6, generator=generator, dtype=torch.float64)
    matrix = torch.block_diag(*[torch.tensor([[0.0, 1.0], [-1.0, 0.0]])] * 3).double()
    expected = torch.einsum("nd,de,ne->n", left, matrix, right)
    torch.testing.assert_close(preference_scores(left, right), expected)
    torch.testing.assert_close(preference_scores(right, left), -expected)
    torch.testing.assert_close(preference_scores(left, left), torch.zeros(7).double())


def test_agreement_of_probabilities_is_that_of_their_pairs() -> None:
    rng = np.random.default_rng(0)
    prompts, truth = np.repeat([0, 1], 3), rng.permutation(6).astype(float)
    wins = np.zeros((2, 3, 3))
    for p, (i, j) in itertools.product(range(2), itertools.combinations(range(3), 2)):
        wins[p, i, j] = rng.uniform(0.05, 0.95)
        wins[p, j, i] = 1 - wins[p, i, j]
    wins[:, range(3), range(3)] = 0.5
    found = pairwise_agreement(wins.reshape(6, 3).tolist(), truth, prompts)
    right = [
        (wins[p, i, j] > 0.5) == (truth[3 * p + i] > truth[3 * p + j])
        for p, (i, j) in itertools.product(range(2), itertools.combinations(range(3), 2))
    ]
    assert found["accuracy"] == pytest.approx(np.mean(right))
