"""Drawn responses: their form, what a back end must hand back, and statistics over a pool."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ablate.errors import ModelError

#: (responses done, of how many, metrics)
Report = Callable[[int, int, dict[str, float]], None]
#: (id, token ids) of a prompt; the id is part of the key of its noise
Prompt = tuple[str, list[int]]


@dataclass(frozen=True)
class SampledResponse:
    """One drawn response. `ids` end with the stop token where the model finished by itself."""

    prompt_id: str
    index: int
    ids: list[int]
    finished: bool


@dataclass
class Count:
    """How much was drawn, stop tokens included."""

    responses: int = 0
    tokens: int = 0

    def add(self, responses: int, tokens: int) -> None:
        """Counts further draws."""
        self.responses += responses
        self.tokens += tokens

    def plain(self) -> dict[str, int]:
        """For a record."""
        return {"responses": self.responses, "tokens": self.tokens}


def as_response(name: str, index: int, ids: Sequence[int], stops: Sequence[int]) -> SampledResponse:
    """The response of generated tokens, which may run on after the first stop token.

    A response that is nothing but its stop token is legal: the model had nothing to say.

    Raises:
        ModelError: not one token.
    """
    for place, token in enumerate(ids):
        if token in stops:
            return SampledResponse(name, index, list(ids[: place + 1]), True)
    if not ids:
        raise ModelError(f"the model returned no token for prompt {name!r}")
    return SampledResponse(name, index, list(ids), False)


def in_order(
    drawn: Sequence[SampledResponse], prompts: Sequence[Prompt], indices: range, sampler: str
) -> list[SampledResponse]:
    """All responses that were asked for, sorted as the prompts came, then by index.

    Raises:
        ModelError: a back end that left some out or returned some twice; names how many.
    """
    found = {(response.prompt_id, response.index): response for response in drawn}
    wanted = [(name, index) for name, _ in prompts for index in indices]
    missing = [key for key in wanted if key not in found]
    if missing:
        some = {name for name, index in found}
        none = [name for name, _ in prompts if name not in some]
        silent = f"; {len(none)} prompts have none at all, {none[0]!r} among them" if none else ""
        raise ModelError(
            f"sampler={sampler} returned {len(wanted) - len(missing)} of {len(wanted)} responses"
            f"{silent}. Nothing of them is kept; run again, or use sampler=transformers"
        )
    if len(drawn) != len(wanted):
        raise ModelError(
            f"sampler={sampler} returned {len(drawn)} responses where {len(wanted)} were asked for"
        )
    return [found[key] for key in wanted]


def statistics(
    prompt_ids: Sequence[str],
    responses: Sequence[Sequence[int]],
    finished: Sequence[bool],
    stops: Sequence[int],
) -> dict[str, float]:
    """What a pool looks like, over its R responses; plain numbers for a record.

    Returns:
        prompts, responses, tokens: counts, stop tokens included.
        mean_tokens: tokens per response.
        truncated: share of responses without a stop token.
        empty: share of responses that are a stop token and nothing else.
        duplicates_per_prompt: responses that repeat an earlier one of their prompt, token by
            token, as a mean over prompts.
    """
    count = len(responses)
    tokens = sum(len(ids) for ids in responses)
    same = Counter(zip(prompt_ids, map(tuple, responses), strict=True))
    prompts = len(set(prompt_ids))
    empty = sum(len(ids) == 1 and ids[0] in stops for ids in responses)
    return {
        "prompts": prompts,
        "responses": count,
        "tokens": tokens,
        "mean_tokens": tokens / max(count, 1),
        "truncated": sum(not done for done in finished) / max(count, 1),
        "empty": empty / max(count, 1),
        "duplicates_per_prompt": (count - len(same)) / max(prompts, 1),
    }
