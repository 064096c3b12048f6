"""Scorers that are models: reward models, foreign classifiers, policies (torch)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate.rewards.normalize import rows_by_prompt
from ablate.rewards.table import Answer

SCORE_BATCH = 128
#: tokens per forward pass when log-probs are computed, padding included
LOGP_BATCH_TOKENS = 8192


class RewardModelScorer:
    """A reward model trained here; it shares the policy's tokenizer, so ids are scored directly."""

    def __init__(self, folder: Path, device: str) -> None:
        from ablate.models.scoring import load_reward_model
        from ablate.models.tokenizer import load_tokenizer

        self.model = load_reward_model(folder, device=device)
        self.tokenizer = load_tokenizer(str(folder))

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        from ablate.models.scoring import score_responses

        pairs = [(answer.prompt_ids, answer.response_ids) for answer in answers]
        return score_responses(self.model, self.tokenizer, pairs, batch_size=SCORE_BATCH)


class ImplicitScorer:
    """The implicit reward of a preference-trained policy, beta log(pi/pi_ref), arXiv 2305.18290."""

    def __init__(self, policy: Any, reference: Any, tokenizer: Any, beta: float) -> None:
        self.policy, self.reference, self.tokenizer = policy, reference, tokenizer
        self.beta = beta

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        from ablate.models.logps import response_logps

        items = [(answer.prompt_ids, [answer.response_ids]) for answer in answers]
        policy = response_logps(self.policy, self.tokenizer, items, LOGP_BATCH_TOKENS)
        reference = response_logps(self.reference, self.tokenizer, items, LOGP_BATCH_TOKENS)
        return self.beta * (
            np.array([row[0] for row in policy]) - np.array([row[0] for row in reference])
        )


class GeneralPreference:
    """A general preference model trained here (arXiv 2410.02197): P(i beats j), cycles allowed.

    Each response has an embedding; P = σ(s/tau) with the skew-symmetric score s of two of them.
    The paper's scale for each prompt is left out: it changes no sign.
    """

    def __init__(self, folder: Path, device: str, tau: float) -> None:
        from ablate.models.scoring import load_reward_model
        from ablate.models.tokenizer import load_tokenizer

        self.tau = tau
        self.model = load_reward_model(folder, device=device, output=0)
        self.tokenizer = load_tokenizer(str(folder))

    def compare(self, answers: Sequence[Answer]) -> list[list[float]]:
        """For each answer, P(it beats answer j) for the answers j of its prompt, in their order."""
        from ablate.models.scoring import classifier_outputs
        from ablate.trl_compat.reward import preference_scores

        pairs = [(answer.prompt_ids, answer.response_ids) for answer in answers]
        embedded = classifier_outputs(self.model, self.tokenizer, pairs, SCORE_BATCH)
        prompts = np.array([answer.prompt_id for answer in answers], dtype=object)
        lines: list[list[float]] = [[] for _ in answers]
        for rows in rows_by_prompt(prompts):
            scores = preference_scores(embedded[rows][:, None], embedded[rows][None, :])
            wins = 1 / (1 + np.exp(-scores / self.tau))
            for row, line in zip(rows, wins.tolist(), strict=True):
                lines[row] = line
        return lines
