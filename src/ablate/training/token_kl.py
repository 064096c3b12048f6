"""Log-probabilities and the exact divergence from the reference at every token of a response."""

from typing import Any

import torch
from torch import Tensor

from ablate.training.lora import without_adapters


def token_logps_and_kl(
    model: Any, reference: Any, input_ids: Tensor, completion_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """log π of the response's tokens, and KL(π_ref ‖ π) of the next-token distributions.

    Both models' distributions over the vocabulary are held for all tokens of the responses.

    Args:
        model: the policy; gradients flow through both results.
        reference: a frozen model; None: the policy with its adapters switched off.
        input_ids: int[R, L], padded on the right.
        completion_mask: bool[R, L], True at the tokens of the response.

    Returns:
        two float32[R, L - 1], 0 outside the response.
    """
    shown = completion_mask[:, 1:]
    policy = _log_softmax(model, input_ids, shown)
    with without_adapters(model) if reference is None else torch.no_grad() as base:
        fixed = _log_softmax(base if reference is None else reference, input_ids, shown)
    targets = input_ids[:, 1:][shown]
    logps = policy.gather(1, targets[:, None])[:, 0]
    divergence = (fixed.exp() * (fixed - policy)).sum(dim=1)
    empty = torch.zeros(shown.shape, dtype=torch.float32, device=shown.device)
    return (
        empty.masked_scatter(shown, logps),
        empty.masked_scatter(shown, divergence),
    )


def _log_softmax(model: Any, input_ids: Tensor, shown: Tensor) -> Tensor:
    """float32[N, V] at the N positions that predict a token of a response."""
    logits = model(input_ids=input_ids, use_cache=False).logits[:, :-1]
    return torch.log_softmax(logits[shown].float(), dim=-1)
