"""Policy gradients on groups: advantages, importance ratios, clipping, KL, mean over tokens.

Shapes: B prompts, K responses, T tokens. Sources: RLOO 2402.14740, GRPO 2402.03300, Dr. GRPO
2503.20783, REINFORCE++ 2501.03262, DAPO 2503.14476, GSPO 2507.18071, CISPO 2506.13585.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.config.objective_gradient import IN_LOSS
from ablate.groups import PromptGroup
from ablate.objectives.advantages import advantages
from ablate.objectives.groupwise import top_tied
from ablate.objectives.scores import real_tokens
from ablate.objectives.terms import Term, overall, target_values

#: e^x of anything above is continued as a straight line: huge, with its gradient, and finite
_STEEP = 60.0


@dataclass(frozen=True)
class _LogProbs:
    """Of policy, behaviour and reference: float[B, K, T], or float[B, K] without token tensors."""

    policy: Tensor
    #: that of the policy that drew the responses, without gradient
    behaviour: Tensor
    reference: Tensor | None


def policy_gradient(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """-E[ clipped ratio · advantage ] (+ β·KL), the mean over responses and tokens as configured.

    The ratio is π/π_old of a token, of the whole response (`sequence`), or its geometric mean
    over tokens (`sequence_mean`). Without `old_token_logps` the responses are taken to be drawn
    from the policy as it is: the ratio is 1 and its gradient that of log π.
    """
    assert config.eta is not None
    present = group.present
    values = target_values(config, group, scores.dtype)
    usable = present.sum(dim=1) >= config.needs.min_responses
    if config.group_filter == "spread":
        highest = values.masked_fill(~present, -torch.inf).amax(dim=1)
        usable = usable & (highest > values.masked_fill(~present, torch.inf).amin(dim=1))
    counted = present & usable[:, None]
    lengths = _lengths(config, group, counted, scores.dtype)
    logps = _log_probs(config, group)
    drift = None
    if config.kl in ("in_reward", "in_return") and logps.reference is not None:
        drift = logps.behaviour - logps.reference.detach()
    advantage = advantages(config, config.eta * values, drift, counted, lengths)
    ratio = _ratio(config, logps, lengths)
    by_response, by_token, metrics = _surrogate(config, logps, ratio, advantage, lengths, counted)
    if config.kl in IN_LOSS and logps.reference is not None:
        divergence = _k3(logps.policy, logps.reference)
        penalty = config.beta * divergence
        if config.kl == "in_loss_weighted":
            # its expected gradient is that of KL(π ‖ π_ref), which k3 alone has not (2512.02556)
            penalty = penalty * (ratio if ratio.dim() == 3 else ratio[..., None])
        by_token = penalty if by_token is None else by_token + penalty
        metrics["kl_token"] = overall(divergence.sum(dim=2) / lengths.clamp(min=1), counted)
    losses = _over_tokens(config, by_response, by_token, lengths, counted)
    losses = _over_responses(config, losses, lengths, counted)
    return Term(losses, usable, top_tied(values, present).sum(), metrics)


def _lengths(
    config: ObjectiveConfig, group: PromptGroup, counted: Tensor, dtype: torch.dtype
) -> Tensor:
    """float[B, K]: tokens of the responses that count; 1 each where no slot asks for them."""
    if not config.needs.lengths:
        return counted.to(dtype)
    assert group.lengths is not None
    return torch.where(counted, group.lengths.to(dtype), torch.zeros((), dtype=dtype))


def _log_probs(config: ObjectiveConfig, group: PromptGroup) -> _LogProbs:
    old, needs = group.old_token_logps, config.needs
    if needs.tokens:
        assert group.token_logps is not None
        policy = real_tokens(group.token_logps, group)
        behaviour = policy if old is None else real_tokens(old, group)
        reference = None
        if needs.reference:
            assert group.token_ref_logps is not None
            reference = real_tokens(group.token_ref_logps, group)
        return _LogProbs(policy, behaviour.detach(), reference)

    def clean(values: Tensor) -> Tensor:
        return torch.where(group.present, values.to(group.dtype), 0.0)

    policy = clean(group.policy_logps)
    behaviour = policy if old is None else real_tokens(old, group).sum(dim=2)
    reference = None
    if needs.reference:
        assert group.ref_logps is not None
        reference = clean(group.ref_logps)
    return _LogProbs(policy, behaviour.detach(), reference)


def _ratio(config: ObjectiveConfig, logps: _LogProbs, lengths: Tensor) -> Tensor:
    """π/π_old: float[B, K, T] of each token, or float[B, K] of the whole response."""
    log_ratio = logps.policy - logps.behaviour
    if config.ratio == "token":
        return _exp(log_ratio)
    if log_ratio.dim() == 3:
        log_ratio = log_ratio.sum(dim=2)
    if config.ratio == "sequence_mean":
        log_ratio = log_ratio / lengths.clamp(min=1)
    return _exp(log_ratio)


def _surrogate(
    config: ObjectiveConfig,
    logps: _LogProbs,
    ratio: Tensor,
    advantage: Tensor,
    lengths: Tensor,
    counted: Tensor,
) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
    """The loss of each response or of each token (the other is None), and metrics."""
    whole = config.ratio != "token"
    if not whole and advantage.dim() == 2:
        advantage = advantage[..., None]
    gain = advantage.detach()
    shown = counted
    if not whole:
        steps = torch.arange(ratio.shape[2], device=ratio.device)
        shown = steps < lengths[..., None]
    if config.clip == "cispo":
        assert config.clip_high is not None
        loss = -ratio.clamp(max=config.clip_high).detach() * gain * logps.policy
        removed = (ratio > config.clip_high) & (gain > 0)
    elif config.clip == "ppo":
        assert config.clip_low is not None
        assert config.clip_high is not None
        low, high = 1 - config.clip_low, 1 + config.clip_high
        loss = -torch.minimum(ratio * gain, ratio.clamp(low, high) * gain)
        removed = ((ratio < low) & (gain < 0)) | ((ratio > high) & (gain > 0))
    else:
        loss = -ratio * gain
        removed = torch.zeros_like(shown)
    metrics = {"ratio": overall(ratio, shown), "clipped": overall(removed.to(ratio.dtype), shown)}
    loss = torch.where(shown, loss, torch.zeros_like(loss))
    return (loss, None, metrics) if whole else (None, loss, metrics)


def _over_tokens(
    config: ObjectiveConfig,
    by_response: Tensor | None,
    by_token: Tensor | None,
    lengths: Tensor,
    counted: Tensor,
) -> Tensor:
    """float[B, K]: mean over the tokens of each response, or their sum.

    A loss of the whole response counts once for each of its tokens.
    """
    mean = config.over_tokens == "mean"
    total = lengths.new_zeros(lengths.shape)
    if by_token is not None:
        total = by_token.sum(dim=2)
        total = total / lengths.clamp(min=1) if mean else total
    if by_response is not None:
        total = total + (by_response if mean else by_response * lengths)
    return torch.where(counted, total, torch.zeros_like(total))


def _over_responses(
    config: ObjectiveConfig, losses: Tensor, lengths: Tensor, counted: Tensor
) -> Tensor:
    """float[B]: mean over the responses, or over the tokens of the prompt or of the batch."""
    if config.aggregate == "token_mean":
        # over all tokens of the batch, written so that the mean over prompts gives it
        prompts = counted.any(dim=1).sum()
        return losses.sum(dim=1) * (prompts / lengths.sum().clamp(min=1))
    if config.over_tokens == "group_mean":
        return losses.sum(dim=1) / lengths.sum(dim=1).clamp(min=1)
    mean = losses.sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    if config.over_tokens == "constant":
        assert config.constant_length is not None
        mean = mean / config.constant_length
    return mean


def _k3(policy: Tensor, reference: Tensor) -> Tensor:
    """float[B, K, T]: π_ref/π - 1 - log π_ref/π, an estimate of KL(π ‖ π_ref), never negative."""
    gap = reference - policy
    return _exp(gap) - gap - 1


def _exp(values: Tensor) -> Tensor:
    """e^x, continued linearly where it would leave float32."""
    beyond = (values - _STEEP).clamp(min=0)
    return values.clamp(max=_STEEP).exp() * (1 + beyond)
