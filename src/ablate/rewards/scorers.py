"""Scorers: objects that give each answer a number (trained or loaded models; torch)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ablate.datasets.chat import Conversation, Message

SCORE_BATCH = 128
#: tokens per forward pass when log-probs are computed, padding included
LOGP_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Answer:
    """A response to a prompt, as text and as the policy's token ids.

    `messages` are there where the prompt is more than one message of a user; `prompt` is then
    their plain rendering.
    """

    prompt_id: str
    prompt: str
    prompt_ids: list[int]
    response: str
    response_ids: list[int]
    messages: list[Message] | None = None

    @property
    def conversation(self) -> Conversation:
        """The prompt as a tokenizer takes it."""
        return self.prompt if self.messages is None else self.messages


class Scorer(Protocol):
    """Anything that scores answers; higher is better."""

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """float[R], one score per answer."""
        ...


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
            (
                encode_prompt(self.tokenizer, a.conversation),
                encode_response(self.tokenizer, a.response),
            )
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
