"""The target and distance slots for two outcomes: how far a margin is from what it should be."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.config.objective import ObjectiveConfig


@dataclass(frozen=True)
class Target:
    """What a margin should be: a gap, and as a label p = σ(gap) the probability of winning.

    The label of arXiv 2403.00409 exceeds 1 and that of a hard target is 1: these have no gap.
    """

    label: Tensor | float
    gap: Tensor | float | None


def pair_target(config: ObjectiveConfig, reward_gap: Tensor | None) -> Target:
    """The target of a pair; `reward_gap` float[B, P] is r_w - r_l, or the logit of P(w beats l).

    It is read by a target of values, and by `win_prob`.
    """
    match config.target:
        case "hard":
            return Target(1.0, None)
        case "smoothed":
            assert config.epsilon is not None
            label = 1 - config.epsilon
            gap = None if config.epsilon == 0 else math.log(label / config.epsilon)
            return Target(label, gap)
        case "unbiased":
            assert config.epsilon is not None
            return Target((1 - config.epsilon) / (1 - 2 * config.epsilon), None)
        case "constant":
            assert config.constant is not None
            return Target(1 / (1 + math.exp(-config.constant)), config.constant)
        case "rewards" | "win_rate" | "win_logit":
            assert config.eta is not None
            assert reward_gap is not None
            gap_tensor = config.eta * reward_gap
            return Target(torch.sigmoid(gap_tensor), gap_tensor)
        case "win_prob":
            # the gap is the logit of the pair's own probability
            assert reward_gap is not None
            return Target(torch.sigmoid(reward_gap), reward_gap)


def pair_distance(config: ObjectiveConfig, margin: Tensor, target: Target) -> Tensor:
    """Distance of each margin from its target, same shape as `margin`, without coefficient."""
    match config.distance:
        case "ce":
            return _cross_entropy(margin, target, config.subtract_entropy)
        case "fwd":
            return _forward_kl(margin, target)
        case "sq":
            return (margin - _gap(target)) ** 2
        case "hinge":
            return (_gap(target) - margin).clamp(min=0)
        case "discopop":
            assert config.tau is not None
            return _discopop(margin, config.tau)
        case "sigmoid":
            return torch.sigmoid(-margin)


def target_entropy(target: Target) -> Tensor | float:
    """Entropy in nats of the two-outcome target; 0 for a label that is no probability."""
    if target.gap is None:
        return 0.0
    gap = torch.as_tensor(target.gap)
    label = torch.as_tensor(target.label)
    return -label * F.logsigmoid(gap) - (1 - label) * F.logsigmoid(-gap)


def _gap(target: Target) -> Tensor | float:
    assert target.gap is not None
    return target.gap


def _cross_entropy(margin: Tensor, target: Target, subtract_entropy: bool) -> Tensor:
    """-p log σ(m) - (1-p) log σ(-m) for any real label p; less the entropy of p: KL(p || σ(m))."""
    p = target.label
    win, lose = F.logsigmoid(margin), F.logsigmoid(-margin)
    if subtract_entropy and target.gap is not None:
        # subtracted term by term: the result is exactly 0 where margin equals gap
        gap = torch.as_tensor(target.gap, dtype=margin.dtype, device=margin.device)
        win, lose = win - F.logsigmoid(gap), lose - F.logsigmoid(-gap)
    return -p * win - (1 - p) * lose


def _forward_kl(margin: Tensor, target: Target) -> Tensor:
    """KL(Bernoulli σ(m) || Bernoulli σ(gap))."""
    gap = torch.as_tensor(_gap(target), dtype=margin.dtype, device=margin.device)
    return torch.sigmoid(margin) * (F.logsigmoid(margin) - F.logsigmoid(gap)) + torch.sigmoid(
        -margin
    ) * (F.logsigmoid(-margin) - F.logsigmoid(-gap))


def _discopop(margin: Tensor, tau: float) -> Tensor:
    """-log σ(m)·(1 - g) + e^{-m}·g with gate g = σ(m/τ) (arXiv 2406.08414, eq. 5)."""
    gate = margin / tau
    # e^{-m}·g in one exponent: apart, the first factor overflows where the second vanishes
    return -F.logsigmoid(margin) * torch.sigmoid(-gate) + torch.exp(F.logsigmoid(gate) - margin)
