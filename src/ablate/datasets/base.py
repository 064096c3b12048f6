"""What a dataset offers to the stages: prompts by split, demonstrations, responses, a judge."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

SPLITS = ("sft", "reward", "judge", "train", "valid", "test", "ood")


@dataclass(frozen=True)
class Prompt:
    """One prompt. `facts` is plain data that only the judge may read (the task's answer)."""

    id: str
    split: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


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

    def judge_identity(self) -> dict[str, Any]:
        """Plain data that decides what `judge` says; only where `has_judge`."""
        ...

    def judge(self, prompt: Prompt, response: str) -> float:
        """Exact quality of a response (higher is better); only where `has_judge`."""
        ...
