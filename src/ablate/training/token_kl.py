"""Log-probabilities and the exact divergence from the reference at every token of a response."""

from typing import Any

import torch
from torch import Tensor

from ablate.models.sharing import attention
from ablate.training.lora import without_adapters
from ablate.trl_compat.fused_head import token_logits


def token_logps_and_kl(
    model: Any, reference: Any, rows: dict[str, Tensor], packed: bool
) -> tuple[Tensor, Tensor]:
    """log π of the response's tokens, and KL(π_ref ‖ π) of the next-token distributions.

    Both models' distributions over the vocabulary are held for all tokens of the responses.

    Args:
        model: the policy; gradients flow through both results.
        reference: a frozen model; None: the policy with its adapters switched off.
        rows: see `text_rows`; `packed` says whether texts share them.

    Returns:
        two float32[N], in the order of the response tokens.
    """
    policy = _log_softmax(model, rows, packed)
    with without_adapters(model) if reference is None else torch.no_grad() as base:
        fixed = _log_softmax(base if reference is None else reference, rows, packed)
    logps = policy.gather(1, rows["target"][:, None])[:, 0]
    return logps, (fixed.exp() * (fixed - policy)).sum(dim=1)


def _log_softmax(model: Any, rows: dict[str, Tensor], packed: bool) -> Tensor:
    """float32[N, V] at the N places that predict a token of a response."""
    mask = attention(model, rows) if packed else None
    return torch.log_softmax(token_logits(model, rows, mask).float(), dim=-1)
