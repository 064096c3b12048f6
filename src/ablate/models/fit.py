"""Examples that are too long for a model: refused, left out or cut by policy, and counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ablate.config.dataset import Lengths
from ablate.datasets.chat import Conversation, as_messages
from ablate.errors import ModelError
from ablate.models.tokenizer import encode_prompt, encode_response

_ADVICE = (
    "Set dataset.lengths.over_long=drop or truncate, raise the limits in dataset.lengths, or take "
    "a model with a longer context"
)


@dataclass(frozen=True)
class Fitted:
    """A prompt within limits with its tokens, and tokens and wholeness of each response.

    None stands for a response that is left out.
    """

    conversation: Conversation
    prompt_ids: list[int]
    responses: list[tuple[list[int], bool] | None]


class Fitter:
    """Encodes prompts and responses within limits.

    `truncate` cuts a response at the end, which then has no end token, and shortens a prompt by
    its earliest turns (what the system says and the last message stay); a prompt whose last message
    alone is too long is left out. Counts, in plain words, are in `counts`.
    """

    def __init__(self, tokenizer: Any, lengths: Lengths | None, context: int | None) -> None:
        """`lengths` None refuses what the context does not take."""
        self.tokenizer = tokenizer
        self.policy = "error" if lengths is None else lengths.over_long
        own = (None, None) if lengths is None else (lengths.max_prompt_tokens, lengths.max_tokens)
        self.prompt_limit = own[0]
        self.limit = _least(own[1], context)
        self.counts: Counter[str] = Counter()

    def prompt(
        self, conversation: Conversation, room: int
    ) -> tuple[Conversation, list[int]] | None:
        """The prompt as it is used, and its tokens; None where it is left out.

        `room` is what an answer needs after it.

        Raises:
            ModelError: it is too long, and the policy is to refuse.
        """
        limit = _least(self.prompt_limit, None if self.limit is None else self.limit - room)
        ids = encode_prompt(self.tokenizer, conversation)
        if limit is None or len(ids) <= limit:
            return conversation, ids
        if self.policy == "error":
            raise ModelError(
                f"a prompt has {len(ids)} tokens, but only {limit} leave room for an answer of "
                f"{room}. {_ADVICE}"
            )
        if self.policy == "truncate":
            messages = list(as_messages(conversation))
            start = int(messages[0]["role"] == "system")
            while len(messages) > start + 1:
                # a question goes with its answer, so that turns go on alternating
                del messages[start : start + 2]
                if len(messages) == start:
                    break
                ids = encode_prompt(self.tokenizer, messages)
                if len(ids) <= limit:
                    self.counts["prompts shortened"] += 1
                    return messages, ids
        self.counts["prompts too long, left out"] += 1
        return None

    def group(self, conversation: Conversation, responses: Sequence[str]) -> Fitted | None:
        """A prompt with responses that are given; None where nothing of it is left.

        Raises:
            ModelError: something is too long, and the policy is to refuse.
        """
        encoded = [encode_response(self.tokenizer, text) for text in responses]
        longest = max(map(len, encoded))
        # no response takes more than half of what there is away from its prompt
        room = longest if self.limit is None else min(longest, self.limit // 2)
        prompt = self.prompt(conversation, room)
        if prompt is None:
            return None
        fitted = [self._response(len(prompt[1]), ids) for ids in encoded]
        return None if not any(fitted) else Fitted(*prompt, fitted)

    def _response(self, before: int, ids: list[int]) -> tuple[list[int], bool] | None:
        if self.limit is None or before + len(ids) <= self.limit:
            return ids, True
        if self.policy == "error":
            raise ModelError(
                f"a response with its prompt has {before + len(ids)} tokens, but at most "
                f"{self.limit} are allowed. {_ADVICE}"
            )
        if self.policy == "truncate" and before < self.limit:
            self.counts["responses cut"] += 1
            return ids[: self.limit - before], False
        self.counts["responses too long, left out"] += 1
        return None


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
