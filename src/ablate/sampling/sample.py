"""Drawing responses with the model's own `generate`, and noise keyed by response.

Token t of response i to prompt x is the inverse of the model's cumulative distribution (tokens in
the order of their ids) at a uniform number that depends on (seed, x, i, t) alone. Batch size,
the order of prompts and the size of the pool do not change a response, and a larger pool begins
with the smaller one; so where memory runs out, half as many are drawn at a time. What remains is
rounding: a different batch shape may change a logit in its last bits, and a token whose boundary
lies within that distance.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from ablate.config.dataset import Sampling
from ablate.errors import ModelError
from ablate.models.loading import check_lengths, context_length
from ablate.models.tokenizer import stop_token_ids
from ablate.sampling.noise import KEYED, choose, noise_table
from ablate.sampling.responses import Prompt, Report, SampledResponse, as_response, in_order
from ablate.trl_compat.fused_head import base_of
from ablate.trl_compat.quiet import quiet


def sample_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
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
    indices = range(first_index, first_index + num_responses)
    backend = TransformersBackend(model, tokenizer, batch_size)
    return in_order(
        backend.draw(prompts, indices, sampling, seed, report), prompts, indices, "transformers"
    )


def check_room(model: PreTrainedModel, prompts: list[Prompt], sampling: Sampling) -> None:
    """Raise a ModelError where a prompt leaves no room for `max_new_tokens` in the context."""
    check_lengths(
        (len(ids) + sampling.max_new_tokens for _, ids in prompts),
        context_length(model),
        "prompt and response",
    )


def warpers(sampling: Sampling) -> list[LogitsProcessor]:
    """Temperature and cuts, in the order in which transformers applies them."""
    chosen: list[LogitsProcessor] = []
    if sampling.temperature != 1:
        chosen.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chosen.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chosen.append(TopPLogitsWarper(sampling.top_p))
    return chosen


class TransformersBackend:
    """Draws batch by batch with `generate` of a model in memory."""

    noise = KEYED

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    def draw(
        self,
        prompts: list[Prompt],
        indices: range,
        sampling: Sampling,
        seed: int,
        report: Report | None,
    ) -> list[SampledResponse]:
        """Responses to every prompt, sorted by the prompts' lengths."""
        model = self.model
        check_room(model, prompts, sampling)
        # equal lengths side by side: no padding is computed; the order does not influence draws
        ordered = sorted(prompts, key=lambda prompt: len(prompt[1]))
        rows = [(name, index, ids) for name, ids in ordered for index in indices]
        drawn: list[SampledResponse] = []
        was_training, own_defaults = model.training, model.generation_config
        model.eval()
        # a model's own defaults (a repetition penalty, say) would change the distribution unseen
        model.generation_config = GenerationConfig()
        try:
            while len(drawn) < len(rows):
                size = min(self.batch_size, lowered_batch(model) or self.batch_size)
                batch = rows[len(drawn) : len(drawn) + size]
                found = _draw_if_it_fits(model, self.tokenizer, batch, sampling, seed)
                if found is None:
                    _lower(model, len(batch), sampling)
                    continue
                drawn += found
                if report is not None:
                    report(len(drawn), len(rows), {})
        finally:
            model.generation_config = own_defaults
            model.train(was_training)
        return drawn

    def close(self) -> None:
        """Nothing to free: the model belongs to the caller."""


#: how many responses at a time fit beside a model in memory, where fewer than were asked for
_LOWERED: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def lowered_batch(model: Any) -> int | None:
    """Responses drawn at a time from this model since memory ran out; None where it never did."""
    return _LOWERED.get(base_of(model))


def _draw_if_it_fits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[tuple[str, int, list[int]]],
    sampling: Sampling,
    seed: int,
) -> list[SampledResponse] | None:
    """None where memory ran out; the failed attempt's tensors are free by then."""
    try:
        return _draw(model, tokenizer, rows, sampling, seed)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
    return None


def _lower(model: Any, failed: int, sampling: Sampling) -> None:
    """Halves the number of responses at a time, for as long as the model lives."""
    clear_device_cache(garbage_collection=True)
    if failed == 1:
        raise ModelError(
            f"memory ran out while a single response of up to {sampling.max_new_tokens} tokens "
            "was drawn. Lower max_new_tokens (dataset.pool.sampling, evaluation.sampling), use a "
            "smaller model, or a machine with more memory"
        )
    _LOWERED[base_of(model)] = failed // 2


class KeyedChoice(LogitsProcessor):
    """Leaves one token per row: the inverse of the cumulative distribution at a given number."""

    def __init__(self, noise: torch.Tensor, prompt_length: int) -> None:
        self.noise = noise  # float64[R, T]
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores: float[R, V] after temperature and cuts."""
        position = input_ids.shape[1] - self.prompt_length
        token = choose(scores, self.noise[:, position : position + 1])
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
    input_ids, mask = input_ids.to(device), mask.to(device)
    noise = noise_table([(name, index) for name, index, _ in rows], seed, limit)
    processors = LogitsProcessorList([*warpers(sampling), KeyedChoice(noise.to(device), width)])
    stops = stop_token_ids(tokenizer)
    generate: Any = model.generate
    with torch.no_grad(), quiet():
        output = generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=limit,
            do_sample=False,
            num_beams=1,
            logits_processor=processors,
            eos_token_id=stops,
            pad_token_id=pad,
            use_cache=True,
            past_key_values=_shared_prompts(model, [name for name, _, _ in rows], input_ids, mask),
        )
    new = output[:, width:].tolist()
    return [
        as_response(name, index, ids, stops)
        for (name, index, _), ids in zip(rows, new, strict=True)
    ]


def _shared_prompts(
    model: PreTrainedModel, names: list[str], input_ids: torch.Tensor, mask: torch.Tensor
) -> DynamicCache | None:
    """Keys and values of all prompt tokens but the last, computed once for each prompt.

    None where no prompt comes twice, or where the model keeps another kind of cache.
    """
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    cache = DynamicCache(config=model.config)
    plain = bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
    if len(first) == len(names) or input_ids.shape[1] < 2 or not plain:
        return None
    distinct = sorted(first, key=first.__getitem__)
    rows = torch.tensor([first[name] for name in distinct], device=input_ids.device)
    shown = mask[rows, :-1]
    decoder: Any = model.get_decoder()
    decoder(
        input_ids=input_ids[rows, :-1],
        attention_mask=shown,
        position_ids=(shown.cumsum(dim=1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    place = {name: number for number, name in enumerate(distinct)}
    cache.batch_select_indices(torch.tensor([place[name] for name in names], device=rows.device))
    return cache
