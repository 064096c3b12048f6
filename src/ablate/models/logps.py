"""Log-probabilities of given responses, and the exact divergence between two models on them."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.models.loading import check_lengths, context_length
from ablate.models.packing import Packing, Text, text_rows, trees_of
from ablate.models.sharing import attention, why_not
from ablate.trl_compat.fused_head import fused_head, gathering, token_logits, token_values

#: (prompt ids, the ids of its responses)
Item = tuple[list[int], list[list[int]]]
#: numbers that two models' logits of a batch may have, each
MAX_LOGITS = 2**27


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
    texts = _flatten(items)
    check_lengths((len(prompt) + len(ids) for prompt, ids in texts), context_length(model))
    packing = _packing(model)
    flat: list[list[float]] = [[] for _ in texts]
    was_training = model.training
    model.eval()
    try:
        with nullcontext() if attached else fused_head(model), torch.no_grad():
            for batch in _batches(texts, packing, batch_tokens):
                rows = _rows(model, tokenizer, [texts[place] for place in batch], packing)
                mask = None if packing is None else attention(model, rows)
                values = token_values(model, rows, ("log_probs",), mask)[0].cpu()
                pieces = values.split([len(texts[place][1]) for place in batch])
                for place, piece in zip(batch, pieces, strict=True):
                    flat[place] = piece.tolist()
    finally:
        model.train(was_training)
    return _nest(items, flat)


def _packing(model: PreTrainedModel) -> Packing | None:
    """How a model's rows are packed; None where it cannot take packed rows."""
    return Packing.of(model.config) if why_not(model) is None else None


def _batches(
    texts: Sequence[Text], packing: Packing | None, batch_tokens: int
) -> Iterator[list[int]]:
    """Places of texts by similar length, those that share a prompt together."""
    trees = trees_of(texts, [0] * len(texts), packing)
    for batch in batches_by_length([tree.length for tree in trees], batch_tokens):
        yield [place for number in batch for place in trees[number].texts]


def _rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    packing: Packing | None,
) -> dict[str, Tensor]:
    rows = text_rows(texts, [0] * len(texts), int(tokenizer.pad_token_id), packing)
    return {name: value.to(model.device) for name, value in rows.items()}


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
    texts = _flatten(items)
    check_lengths((len(prompt) + len(ids) for prompt, ids in texts), context_length(policy))
    packing = _packing(policy) if why_not(reference) is None else None
    # a batch's logits of both models are held at once
    batch_tokens = min(batch_tokens, MAX_LOGITS // policy.config.get_text_config().vocab_size)
    flat: list[Any] = [None] * len(texts)
    policy.eval()
    reference.eval()
    with torch.no_grad(), gathering(policy), gathering(reference):
        for batch in _batches(texts, packing, batch_tokens):
            chosen = [texts[place] for place in batch]
            rows = _rows(policy, tokenizer, chosen, packing)
            left = _log_softmax(policy, rows, packing)
            other = {name: value.to(reference.device) for name, value in rows.items()}
            right = _log_softmax(reference, other, packing).to(left.device)
            targets = rows["target"][:, None]
            columns = torch.stack(
                [
                    left.gather(1, targets)[:, 0],
                    right.gather(1, targets)[:, 0],
                    (left.exp() * (left - right)).sum(dim=1),
                ],
                dim=1,
            ).cpu()
            pieces = columns.split([len(response) for _, response in chosen])
            for place, piece in zip(batch, pieces, strict=True):
                flat[place] = ResponseKL(*piece.sum(dim=0).tolist())
    return _nest(items, flat)


def _log_softmax(
    model: PreTrainedModel, rows: dict[str, Tensor], packing: Packing | None
) -> Tensor:
    """float32[N, V]: log-probabilities at the N places that predict a response token."""
    mask = None if packing is None else attention(model, rows)
    return torch.log_softmax(token_logits(model, rows, mask).float(), dim=-1)
