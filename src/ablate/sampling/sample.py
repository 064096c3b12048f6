"""Drawing responses with noise that belongs to the response, not to the batch.

Token t of response i to prompt x is the inverse of the model's cumulative distribution (tokens in
the order of their ids) at a uniform number that depends on (seed, x, i, t) alone. Batch size,
the order of prompts and the size of the pool do not change a response, and a larger pool begins
with the smaller one. What remains is rounding: a different batch shape may change a logit in its
last bits, and a token whose boundary lies within that distance.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ablate.config.dataset import Sampling
from ablate.errors import ModelError
from ablate.models.loading import check_lengths, context_length
from ablate.models.tokenizer import stop_token_ids
from ablate.trl_compat.quiet import quiet

Report = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class SampledResponse:
    """One drawn response. `ids` end with the stop token where the model finished by itself."""

    prompt_id: str
    index: int
    ids: list[int]
    finished: bool


def sample_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[tuple[str, list[int]]],
    num_responses: int,
    *,
    sampling: Sampling,
    seed: int,
    batch_size: int,
    report: Report | None = None,
    first_index: int = 0,
) -> list[SampledResponse]:
    """Draw `num_responses` responses per prompt; sorted as the prompts came, then by index.

    Args:
        prompts: (id, token ids) per prompt; ids are unique and part of the noise's key.
        batch_size: responses drawn at a time.
        first_index: index of the first response (to extend a pool).

    Raises:
        ModelError: a prompt that leaves no room for `max_new_tokens` in the context.
    """
    check_lengths(
        (len(ids) + sampling.max_new_tokens for _, ids in prompts),
        context_length(model),
        "prompt and response",
    )
    indices = range(first_index, first_index + num_responses)
    # equal lengths side by side: no padding is computed; the order has no influence on the draws
    order = sorted(range(len(prompts)), key=lambda place: (len(prompts[place][1]), place))
    rows = [(place, index) for place in order for index in indices]
    drawn: dict[tuple[int, int], SampledResponse] = {}
    was_training, own_defaults = model.training, model.generation_config
    model.eval()
    # a model's own defaults (a repetition penalty, say) would change the distribution unseen
    model.generation_config = GenerationConfig()
    try:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            keyed = [(prompts[place][0], index, prompts[place][1]) for place, index in batch]
            for row, response in zip(
                batch, _draw(model, tokenizer, keyed, sampling, seed), strict=True
            ):
                drawn[row] = response
            if report is not None:
                done = min(start + batch_size, len(rows))
                report(done, len(rows), {})
    finally:
        model.generation_config = own_defaults
        model.train(was_training)
    return [drawn[place, index] for place in range(len(prompts)) for index in indices]


def uniforms(seed: int, prompt_id: str, index: int, count: int) -> np.ndarray:
    """float64[count] in [0, 1): the noise of one response; longer counts extend shorter ones."""
    text = f"sample|{seed}|{index}|{prompt_id}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).random(count)


class KeyedChoice(LogitsProcessor):
    """Leaves one token per row: the inverse of the cumulative distribution at a given number."""

    def __init__(self, noise: torch.Tensor, prompt_length: int) -> None:
        self.noise = noise  # float64[R, T]
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores: float[R, V] after temperature and cuts."""
        position = input_ids.shape[1] - self.prompt_length
        cumulative = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
        # scaling by the total instead of dividing by it keeps the last token with mass reachable
        target = self.noise[:, position : position + 1] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, target, right=True)
        token = token.clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def _draw(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[tuple[str, int, list[int]]],
    sampling: Sampling,
    seed: int,
) -> list[SampledResponse]:
    width = max(len(ids) for _, _, ids in rows)
    limit = sampling.max_new_tokens
    device = model.device
    pad = tokenizer.pad_token_id
    input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for _, _, ids in rows])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for _, _, ids in rows])
    noise = np.stack([uniforms(seed, name, index, limit) for name, index, _ in rows])
    processors = LogitsProcessorList()
    if sampling.temperature != 1:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    processors.append(KeyedChoice(torch.from_numpy(noise).to(device), width))
    stops = stop_token_ids(tokenizer)
    generate: Any = model.generate
    with torch.no_grad(), quiet():
        output = generate(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=limit,
            do_sample=False,
            num_beams=1,
            logits_processor=processors,
            eos_token_id=stops,
            pad_token_id=pad,
            use_cache=True,
        )
    new = output[:, width:].tolist()
    return [
        _finish(name, index, ids, stops) for (name, index, _), ids in zip(rows, new, strict=True)
    ]


def _finish(name: str, index: int, ids: list[int], stops: list[int]) -> SampledResponse:
    for place, token in enumerate(ids):
        if token in stops:
            # whichever stop token it was, responses are trained to end with the first kind
            return SampledResponse(name, index, [*ids[:place], token], True)
    if not ids:
        raise ModelError(f"the model returned no token for prompt {name!r}")
    return SampledResponse(name, index, ids, False)
