"""What a structure says of a batch, and the masked means that all structures share."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.groups import PromptGroup


@dataclass(frozen=True)
class Term:
    """The preference term of a batch of B prompts."""

    #: float[B]: loss of each prompt (finite, but without meaning where not usable)
    per_prompt: Tensor
    #: bool[B]: the prompt has something to compare
    usable: Tensor
    #: comparisons that were ties, dropped or not (scalar)
    ties: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


def mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """float[B]: mean of [B, P] values over those that count, 0 where there is none."""
    return sum_of(values, counted) / counted.sum(dim=1).clamp(min=1)


def sum_of(values: Tensor, counted: Tensor) -> Tensor:
    """float[B]: sum of [B, P] values over those that count."""
    return torch.where(counted, values, torch.zeros_like(values)).sum(dim=1)


def overall(values: Tensor, counted: Tensor) -> Tensor:
    """Scalar mean over all [B, P] entries that count, without gradient."""
    values = values.detach()
    kept = torch.where(counted, values, torch.zeros_like(values))
    return kept.sum() / counted.sum().clamp(min=1)


def target_values(config: ObjectiveConfig, group: PromptGroup, dtype: torch.dtype) -> Tensor:
    """float[B, K]: what target=rewards, win_rate (less ½) or win_logit aims at, 0 where absent."""
    if config.target in ("win_rate", "win_logit"):
        rates = group.win_rates(logits=config.target == "win_logit").to(dtype)
        if config.target == "win_rate":
            rates = torch.where(group.present, rates - 0.5, torch.zeros_like(rates))
        return rates
    assert group.rewards is not None
    rewards = group.rewards.to(dtype)
    return torch.where(group.present, rewards, torch.zeros_like(rewards))
