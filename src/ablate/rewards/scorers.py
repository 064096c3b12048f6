"""Scorers that are models: reward models, foreign classifiers, policies (torch)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


class ClassifierScorer:
    """A foreign sequence classifier with its own tokenizer and chat template."""

    def __init__(self, path: str, device: str) -> None:
        from ablate.models.scoring import load_reward_model
        from ablate.models.tokenizer import load_tokenizer

        self.model = load_reward_model(path, device=device)
        self.tokenizer = load_tokenizer(path)

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        from ablate.models.scoring import score_responses
        from ablate.models.tokenizer import encode_prompt, encode_response

        pairs = [
            (encode_prompt(self.tokenizer, a.prompt), encode_response(self.tokenizer, a.response))
            for a in answers
        ]
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
