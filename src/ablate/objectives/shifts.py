"""The shift slot: a number subtracted from the score gap of a pair."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.groups import PromptGroup
from ablate.objectives.pairs import Pairs
from ablate.objectives.scores import summed_tokens


@dataclass(frozen=True)
class Shift:
    """What is subtracted from the score gap, and the factor on the result."""

    #: float[B, P] or scalar: for (better, worse), and for the pair the other way round
    forward: Tensor
    backward: Tensor
    factor: float = 1.0


def shifts(config: ObjectiveConfig, group: PromptGroup, pairs: Pairs, scores: Tensor) -> Shift:
    """What to subtract from the score gap of each pair; float[B, K] `scores` hold β."""
    dtype, device = group.dtype, group.policy_logps.device
    match config.shift:
        case "none":
            zero = torch.zeros((), dtype=dtype, device=device)
            return Shift(zero, zero)
        case "gamma":
            gamma = config.gamma
            if gamma is None:
                assert config.gamma_beta_ratio is not None
                gamma = config.gamma_beta_ratio * config.beta
            value = torch.tensor(gamma, dtype=dtype, device=device)
            return Shift(value, value)
        case "length":
            # r = βh + α|y|: a length penalty on the reward enters the margin with a plus
            assert group.lengths is not None
            assert config.length_weight is not None
            value = -config.length_weight * pairs.gap(group.lengths).to(dtype)
        case "extra_rewards":
            value = _extra(config, group, pairs, dtype)
            assert config.extra_weights is not None
            return Shift(value, -value, 1 / (1 - sum(config.extra_weights)))
        case "log_reward_gap":
            assert group.rewards is not None
            assert config.gap_weight is not None
            gap = pairs.gap(group.rewards).to(dtype)
            # ties are dropped; 1 keeps their logarithm finite
            usable = pairs.valid & (gap > 0)
            value = config.gap_weight * torch.where(usable, gap, torch.ones_like(gap)).log()
            return Shift(value, value)
        case "falling_best":
            # λ·max(0, log π_ref/π) of the better response (arXiv 2402.13228)
            assert config.fall_penalty is not None
            fallen = config.fall_penalty * (-scores).clamp(min=0)
            return Shift(fallen.gather(1, pairs.better), fallen.gather(1, pairs.worse))
        case "reference_floor":
            # what is left of the reference's gap is max(0, Δlog π_ref) (arXiv 2602.11902)
            assert group.ref_logps is not None
            known = torch.where(group.present, group.ref_logps, 0).to(dtype)
            gap = config.beta * pairs.gap(known)
            return Shift((-gap).clamp(min=0), gap.clamp(min=0))
        case "token_kl":
            return _token_kl(config, group, pairs)
    return Shift(value, -value)


def _extra(config: ObjectiveConfig, group: PromptGroup, pairs: Pairs, dtype: torch.dtype) -> Tensor:
    """wᵀΔr over the further rewards; the preference keeps weight 1 - Σw (arXiv 2310.03708)."""
    assert group.extra_rewards is not None
    assert config.extra_weights is not None
    weights = torch.tensor(config.extra_weights, dtype=dtype, device=group.extra_rewards.device)
    extra = group.extra_rewards.to(dtype)
    mixed = torch.where(group.present[..., None], extra, torch.zeros_like(extra)) @ weights
    return pairs.gap(mixed)


def _token_kl(config: ObjectiveConfig, group: PromptGroup, pairs: Pairs) -> Shift:
    """αβ(KL_l - KL_w), KL summed over tokens; `kl_stop` makes KL_w a constant (2404.11999)."""
    assert config.kl_weight is not None
    total = (config.kl_weight * config.beta) * summed_tokens(group.token_kl, group)
    held = total.detach() if config.kl_stop == "better" else total
    forward = total.gather(1, pairs.worse) - held.gather(1, pairs.better)
    backward = total.gather(1, pairs.better) - held.gather(1, pairs.worse)
    return Shift(forward, backward)
