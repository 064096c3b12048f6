"""Log-probabilities of given responses, and the exact divergence between two models on them."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.models.loading import check_lengths, context_length
from ablate.trl_compat.fused_head import fused_head, token_logps

#: (prompt ids, the ids of its responses)
Item = tuple[list[int], list[list[int]]]


@dataclass(frozen=True)
class ResponseKL:
    """One response under two models; sums over its tokens in float32, in nats."""

    logp_policy: float
    logp_reference: float
    #: Σ_t KL(π(·|x, y_<t) ‖ π_ref(·|x, y_<t)): its mean over y ~ π is KL(π ‖ π_ref)
    kl: float


def pad_rows(rows: Sequence[tuple[list[int], list[int]]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompt and response joined and padded on the right.

    Returns:
        int[R, L] token ids and bool[R, L], True at the response's tokens.
    """
    width = max(len(prompt) + len(response) for prompt, response in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    completion = torch.zeros((len(rows), width), dtype=torch.bool)
    for place, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        ids[place, :end] = torch.tensor([*prompt, *response])
        completion[place, len(prompt) : end] = True
    return ids, completion


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Positions grouped by similar length so that rows x longest stays within `batch_tokens`."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        if batch and (len(batch) + 1) * lengths[place] > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _flatten(items: Sequence[Item]) -> list[tuple[list[int], list[int]]]:
    return [(prompt, response) for prompt, responses in items for response in responses]


def _nest(items: Sequence[Item], flat: list[Any]) -> list[list[Any]]:
    stream = iter(flat)
    return [[next(stream) for _ in responses] for _, responses in items]


def response_logps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    batch_tokens: int,
) -> list[list[float]]:
    """log π(response | prompt) in nats: sums over the response's tokens in float32.

    Args:
        items: (prompt ids, ids of its responses) per prompt.
        batch_tokens: tokens per forward pass, padding included.

    Returns:
        one list per prompt, one number per response.

    Raises:
        ModelError: a sequence longer than the context.
    """
    return [
        [sum(row) for row in rows]
        for rows in response_token_logps(model, tokenizer, items, batch_tokens)
    ]


def response_token_logps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    batch_tokens: int,
    *,
    attached: bool = False,
) -> list[list[list[float]]]:
    """As `response_logps`, one number per token of each response.

    `attached`: the model is in training and keeps the fused head and the autocast that it has.
    """
    rows = _flatten(items)
    lengths = [len(prompt) + len(response) for prompt, response in rows]
    check_lengths(lengths, context_length(model))
    flat: list[list[float]] = [[] for _ in rows]
    was_training = model.training
    model.eval()
    try:
        with nullcontext() if attached else fused_head(model), torch.no_grad():
            for batch in batches_by_length(lengths, batch_tokens):
                ids, completion = pad_rows([rows[place] for place in batch], _pad(tokenizer))
                device = model.device
                values = token_logps(model, ids.to(device), completion.to(device)).cpu()
                for place, line, shown in zip(batch, values, completion[:, 1:], strict=True):
                    flat[place] = line[shown].tolist()
    finally:
        model.train(was_training)
    return _nest(items, flat)


def token_kl(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    batch_tokens: int,
) -> list[list[ResponseKL]]:
    """Log-probs of each response under both models and the exact KL along its tokens.

    Args and errors as in `response_logps`. The divergence at a position sums over the whole
    vocabulary; it is the KL of the untempered distributions.
    """
    rows = _flatten(items)
    lengths = [len(prompt) + len(response) for prompt, response in rows]
    check_lengths(lengths, context_length(policy))
    flat: list[Any] = [None] * len(rows)
    policy.eval()
    reference.eval()
    with torch.no_grad():
        for batch in batches_by_length(lengths, batch_tokens):
            ids, completion = pad_rows([rows[place] for place in batch], _pad(tokenizer))
            shown = completion[:, 1:]
            left = _log_softmax(policy, ids, shown)
            right = _log_softmax(reference, ids, shown).to(left.device)
            targets = ids[:, 1:][shown].to(left.device)
            columns = torch.stack(
                [
                    left.gather(1, targets[:, None])[:, 0],
                    right.gather(1, targets[:, None])[:, 0],
                    (left.exp() * (left - right)).sum(dim=1),
                ],
                dim=1,
            ).cpu()
            pieces = columns.split(shown.sum(dim=1).tolist())
            for place, piece in zip(batch, pieces, strict=True):
                flat[place] = ResponseKL(*piece.sum(dim=0).tolist())
    return _nest(items, flat)


def _log_softmax(model: PreTrainedModel, ids: Tensor, shown: Tensor) -> Tensor:
    """float32[N, V]: log-probabilities at the N positions that predict a response token."""
    output: Any = model(input_ids=ids.to(model.device), use_cache=False)
    return torch.log_softmax(output.logits[:, :-1][shown.to(model.device)].float(), dim=-1)


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.pad_token_id)
