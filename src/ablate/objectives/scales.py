"""What multiplies the gradient of each log-prob: how a batch-coupled loss is trained by parts."""

from dataclasses import replace

import torch
from torch import Tensor

from ablate.errors import DataError
from ablate.groups import PromptGroup
from ablate.objectives.objective import Objective
from ablate.objectives.scores import summed_tokens
from ablate.objectives.state import State


def response_scales(objective: Objective, group: PromptGroup, state: State | None = None) -> Tensor:
    """float[B, K]: ∂loss/∂log π(y_k) on the global batch, without gradient, 0 where absent.

    Training a batch-coupled objective by micro-batches takes Σ scale_k·log π(y_k) as the loss:
    its gradient is that of the whole batch. With responses sampled from the policy the scales
    are its online gradient. Raises `DataError` for objectives that read per-token log-probs.
    """
    if objective.needs.tokens or objective.needs.token_kl:
        raise DataError(
            f"Objective '{objective.name}' weighs tokens: a response has no single scale."
        )
    leaf = group.policy_logps.detach().to(group.dtype).requires_grad_(True)
    with torch.enable_grad():
        loss = objective(replace(group, policy_logps=leaf), state).loss
    return torch.autograd.grad(loss, leaf)[0]


def token_scales(objective: Objective, group: PromptGroup, state: State | None = None) -> Tensor:
    """float[B, K, T]: ∂loss/∂log π of every token on the global batch, without gradient.

    The same as `response_scales` for objectives that weigh tokens. Raises `DataError` for those
    that read whole distributions.
    """
    if objective.needs.token_kl:
        raise DataError(
            f"Objective '{objective.name}' reads whole distributions: a token has no single scale."
        )
    assert group.token_logps is not None
    leaf = group.token_logps.detach().to(group.dtype).requires_grad_(True)
    with torch.enable_grad():
        sums = summed_tokens(leaf, group)
        loss = objective(replace(group, token_logps=leaf, policy_logps=sums), state).loss
    return torch.autograd.grad(loss, leaf)[0]
