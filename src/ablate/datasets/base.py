"""What a dataset offers to the stages: prompts by split, demonstrations, responses, a judge."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ablate.datasets.chat import Conversation, Message

SPLITS = ("sft", "reward", "judge", "train", "valid", "test", "ood")


@dataclass(frozen=True)
class Prompt:
    """One prompt. `facts` is plain data that only the judge may read (the task's answer).

    `text` is what people read; `messages` are there where the prompt is more than one message of
    a user. `source` says where a public set has it from.
    """

    id: str
    split: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] | None = None
    source: str | None = None

    @property
    def conversation(self) -> Conversation:
        """The prompt as a tokenizer takes it."""
        return self.text if self.messages is None else self.messages


@dataclass(frozen=True)
class GivenResponse:
    """A response that came with the dataset. `score` may be a rank (higher is better)."""

    prompt_id: str
    index: int
    text: str
    score: float


@runtime_checkable
class PreferenceDataset(Protocol):
    """The interface of every dataset level; pure Python and NumPy, no torch, no tokenizer."""

    name: str
    #: words of a closed vocabulary, or None where text is free
    vocabulary: list[str] | None
    #: True where `judge` knows the exact quality of any response
    has_judge: bool
    #: True where responses come with the dataset and none are sampled
    has_responses: bool

    @property
    def has_scores(self) -> bool:
        """True where responses carry scores whose differences mean something, not just order."""
        ...

    def identity(self, split: str | None = None) -> dict[str, Any]:
        """Plain data that decides the content of all or, shared more widely, of one split."""
        ...

    def prompts(self, split: str, limit: int | None = None) -> list[Prompt]:
        """Prompts of a split, always in the same order; `limit` takes the first ones."""
        ...

    def num_prompts(self, split: str) -> int:
        """How many prompts a split has, without making them."""
        ...

    def demonstrations(self) -> list[tuple[Prompt, str]]:
        """Prompt and response pairs for supervised fine-tuning."""
        ...

    def responses(self, split: str) -> list[GivenResponse]:
        """Responses that come with the dataset (empty where they are sampled)."""
        ...

    def response_counts(self, split: str) -> dict[str, int]:
        """Responses that come with the dataset, by prompt id."""
        ...

    def gold(self, split: str) -> dict[str, str]:
        """Gold responses by prompt id; prompts without one are left out."""
        ...

    def rationale(self, split: str) -> dict[str, str]:
        """Texts that say why the better response is better, by prompt id, where there are any."""
        ...

    def nuisance_words(self, response: str) -> int:
        """How many words of a response are there for show; worlds only, else `DataError`."""
        ...

    def origin(self) -> dict[str, Any]:
        """Plain data on where rows come from (file digests, a hub id's commit); empty if drawn."""
        ...

    def cleaning(self) -> dict[str, int]:
        """What was left out or merged when the rows were read: plain words and counts above 0."""
        ...

    def judge_identity(self) -> dict[str, Any]:
        """Plain data that decides what `judge` says; only where `has_judge`."""
        ...

    def judge(self, prompt: Prompt, response: str) -> float:
        """Exact quality of a response (higher is better); only where `has_judge`."""
        ...
