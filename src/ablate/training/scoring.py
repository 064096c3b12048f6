"""A micro-batch scored by the policy: all that an objective needs to know of it."""

from typing import Any

import torch
from torch import Tensor

from ablate.groups import PromptGroup
from ablate.models.sharing import attention
from ablate.objectives import Objective
from ablate.training.collate import SIDE_TEXTS, prompt_group
from ablate.training.token_kl import token_logps_and_kl
from ablate.trl_compat.fused_head import token_values


def scored_group(
    model: Any, batch: dict[str, Tensor], objective: Objective, packed: bool, reference: Any
) -> PromptGroup:
    """The group of a micro-batch; gradients flow into the model.

    Args:
        batch: see `GroupCollator`.
        packed: whether its texts share prompts and rows.
        reference: frozen, for objectives that read whole distributions.
    """
    needs, computed = objective.needs, {}
    if needs.token_kl:
        values, divergence = token_logps_and_kl(model, reference, batch, packed)
        computed["token_kl"] = _token_grid(batch, divergence)
    else:
        names = ("log_probs", "log_sum_sq_probs") if needs.log_sum_sq else ("log_probs",)
        mask = attention(model, batch) if packed else None
        values, *squares = token_values(model, batch, names, mask)
        for value in squares:
            computed["log_sum_sq"] = _to_grid(batch, _sums(batch, value))
    if needs.tokens:
        computed["token_logps"] = _token_grid(batch, values)
    sums = _sums(batch, values)
    for name in SIDE_TEXTS:
        if f"{name}_row" in batch:
            computed[f"{name}_logps"] = sums[batch[f"{name}_row"]]
    return prompt_group(batch, _to_grid(batch, sums), **computed)


def mismatched_logps(model: Any, batch: dict[str, Tensor], packed: bool) -> Tensor:
    """[B, K]: log-probs of (prompt, another prompt's response), without gradient."""
    with torch.no_grad():
        mask = attention(model, batch, "kl_") if packed else None
        values = token_values(model, batch, ("log_probs",), mask, "kl_")[0]
        sums = values.new_zeros(len(batch["cell"])).index_add(0, batch["kl_text"], values)
    return _to_grid(batch, sums)


def _sums(batch: dict[str, Tensor], values: Tensor) -> Tensor:
    """[N] → [R + S]: a number per response token to one per text."""
    return values.new_zeros(len(batch["tokens"])).index_add(0, batch["text"], values)


def _to_grid(batch: dict[str, Tensor], values: Tensor) -> Tensor:
    """[R, ...] → [B, K]; responses that are absent hold 0, further texts are left out."""
    flat = values.new_zeros(batch["mask"].numel())
    cell = batch["cell"]
    return flat.index_put((cell,), values[: len(cell)]).view(batch["mask"].shape)


def _token_grid(batch: dict[str, Tensor], values: Tensor) -> Tensor:
    """[N] → [B, K, T]; the responses' tokens come before those of further texts."""
    count, length = int(batch["lengths"].sum()), int(batch["lengths"].max())
    flat = values.new_zeros(batch["mask"].numel(), length)
    cell = batch["cell"][batch["text"][:count]]
    flat = flat.index_put((cell, batch["place"][:count]), values[:count])
    return flat.view(*batch["mask"].shape, length)
