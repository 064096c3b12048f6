"""The score slot: what a policy's log-probs say about each response, a_k = β·(score of y_k).

Shapes: B prompts, K responses, T tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.groups import PromptGroup


def scores(config: ObjectiveConfig, group: PromptGroup) -> Tensor:
    """float[B, K]: β times the score of each response, in at least float32, 0 where absent."""
    present, dtype = group.present, group.dtype

    def clean(values: Tensor) -> Tensor:
        # `where` before any arithmetic keeps a NaN at an absent response out of the gradient
        return torch.where(present, values.to(dtype), values.new_zeros((), dtype=dtype))

    if config.structure == "policy_gradient":
        return _measured(config, group)
    if config.score == "ld":
        ratio = clean(_length_desensitised(config, group))
    elif config.score == "masked":
        ratio = clean(_masked(group))
    else:
        ratio = clean(group.policy_logps)
        if config.reference != "none":
            assert group.ref_logps is not None
            reference = clean(group.ref_logps)
            if config.reference == "mixture":
                assert group.prev_logps is not None
                assert config.mixture_weight is not None
                reference = torch.lerp(clean(group.prev_logps), reference, config.mixture_weight)
            ratio = ratio - reference
    if config.score in ("mean", "log_odds", "alpha_shaped"):
        assert group.lengths is not None
        ratio = ratio / group.lengths.clamp(min=1).to(dtype)
    return config.beta * torch.where(present, _shaped(config, ratio), torch.zeros_like(ratio))


def _shaped(config: ObjectiveConfig, value: Tensor) -> Tensor:
    """A function of the log-ratio log t, or of the mean log-prob, applied to each response."""
    # exp() of anything above this overflows float32 once squared or summed
    ceiling = 80.0
    match config.score:
        case "sum" | "mean" | "ld" | "masked":
            return value
        case "forward_kl":  # f'(t) = 1 - 1/t (arXiv 2309.16240)
            return 1 - torch.exp((-value).clamp(max=ceiling))
        case "js":  # f'(t) = log(2t / (1 + t))
            return math.log(2) + F.logsigmoid(value)
        case "alpha_divergence":  # f'(t) = (t^(α-1) - 1)/(α - 1), log t in the limit α → 1
            assert config.f_alpha is not None
            power = config.f_alpha - 1
            if abs(power) < 1e-6:
                return value
            return torch.expm1((power * value).clamp(max=ceiling)) / power
        case "log_odds":  # log p - log(1 - p), p = exp(mean log-prob) (arXiv 2403.07691)
            tiny = torch.finfo(value.dtype).eps
            value = value.clamp(max=-tiny)
            return value - torch.log(-torch.expm1(value))
        case "alpha_shaped":  # (1 - p^(-α))/α, log p in the limit α → 0 (arXiv 2501.03884)
            assert config.shape_alpha is not None
            if abs(config.shape_alpha) < 1e-6:
                return value
            return -torch.expm1((-config.shape_alpha * value).clamp(max=ceiling)) / (
                config.shape_alpha
            )


def _measured(config: ObjectiveConfig, group: PromptGroup) -> Tensor:
    """float[B, K]: log-ratio to the reference, log π without one; for metrics alone."""
    if config.needs.tokens:
        ratio = summed_tokens(group.token_logps, group)
        if config.needs.reference:
            ratio = ratio - summed_tokens(group.token_ref_logps, group)
        return ratio
    ratio = group.policy_logps
    if config.needs.reference:
        assert group.ref_logps is not None
        ratio = ratio - group.ref_logps
    return torch.where(group.present, ratio.to(group.dtype), 0.0)


def _length_desensitised(config: ObjectiveConfig, group: PromptGroup) -> Tensor:
    """float[B, K]: log-ratios whose tokens beyond the shortest response count `ld_alpha`.

    arXiv 2409.06411 defines it for pairs; with K > 2 the shortest present response of the whole
    group takes the place of the shorter of the two.
    """
    assert group.token_logps is not None
    assert group.lengths is not None
    assert config.ld_alpha is not None
    ratio = group.token_logps.to(group.dtype)
    if config.reference == "fixed":
        assert group.token_ref_logps is not None
        ratio = ratio - group.token_ref_logps.to(group.dtype)
    far = torch.iinfo(group.lengths.dtype).max
    shared = group.lengths.masked_fill(~group.present, far).amin(dim=1)
    steps = torch.arange(ratio.shape[2], device=ratio.device)
    real = (steps < group.lengths[..., None]) & group.present[..., None]
    ratio = torch.where(real, ratio, torch.zeros_like(ratio))
    return torch.where(steps < shared[:, None, None], ratio, config.ld_alpha * ratio).sum(dim=2)


def _masked(group: PromptGroup) -> Tensor:
    """float[B, K]: Σ_t (u_t·log-ratio_t + d_t·KL_t), weights u and d given (arXiv 2410.05102).

    The sign of the KL is that of arXiv 2404.11999: the margin loses KL_l - KL_w.
    """
    assert group.token_logps is not None
    assert group.token_ref_logps is not None
    assert group.token_weights is not None
    assert group.token_kl_weights is not None
    assert group.token_kl is not None
    ratio = real_tokens(group.token_logps, group) - real_tokens(group.token_ref_logps, group)
    weighted = real_tokens(group.token_weights, group) * ratio
    divergence = real_tokens(group.token_kl, group)
    return (weighted + real_tokens(group.token_kl_weights, group) * divergence).sum(dim=2)


def summed_tokens(values: Tensor | None, group: PromptGroup) -> Tensor:
    """float[B, K]: sum of float[B, K, T] values over the tokens of present responses."""
    assert values is not None
    return real_tokens(values, group).sum(dim=2)


def real_tokens(values: Tensor, group: PromptGroup) -> Tensor:
    """float[B, K, T]: the values at tokens of present responses, 0 elsewhere."""
    real = group.present[..., None].expand(values.shape)
    if group.lengths is not None:
        steps = torch.arange(values.shape[2], device=values.device)
        real = real & (steps < group.lengths[..., None])
    values = values.to(group.dtype)
    return torch.where(real, values, torch.zeros_like(values))
