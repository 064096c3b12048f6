"""The auxiliary slot: terms added to the preference term, each with its coefficient."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.groups import PromptGroup
from ablate.objectives.pairs import best_responses


def auxiliary(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Tensor:
    """float[B]: the weighted sum of all auxiliary terms of each prompt.

    `nll_best` is -log π of the best response (the mean over equally good ones), `nll_best_mean`
    the same per token, `sigmoid_best` σ(a) of its score, which holds it down. `nll_gold` and
    `nll_gold_mean` are -log π of the gold response, `rationale` is -log σ(γ·log π) of the
    rationale (arXiv 2407.14477), `logp_sample` is log π of a sample of the reference policy,
    which is pushed down (arXiv 2405.21046).
    """
    total = group.policy_logps.new_zeros(group.num_prompts, dtype=group.dtype)
    for kind, coefficient in config.aux.items():
        total = total + coefficient * _term(kind, config, group, scores)
    return total


def _term(kind: str, config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Tensor:
    """float[B]"""
    if kind in ("nll_gold", "nll_gold_mean"):
        assert group.gold_logps is not None
        gold = -group.gold_logps.to(group.dtype)
        if kind == "nll_gold":
            return gold
        assert group.gold_lengths is not None
        return gold / group.gold_lengths.clamp(min=1)
    if kind == "rationale":
        assert group.rationale_logps is not None
        assert config.rationale_scale is not None
        return -F.logsigmoid(config.rationale_scale * group.rationale_logps.to(group.dtype))
    if kind == "logp_sample":
        assert group.sample_logps is not None
        return group.sample_logps.to(group.dtype)
    logps = group.policy_logps.to(group.dtype)
    per_response = -torch.where(group.present, logps, torch.zeros_like(logps))
    if kind == "nll_best_mean":
        assert group.lengths is not None
        per_response = per_response / group.lengths.clamp(min=1)
    elif kind == "sigmoid_best":
        per_response = torch.sigmoid(scores)
    best = best_responses(group).to(logps.dtype)
    best = best / best.sum(dim=1, keepdim=True).clamp(min=1)
    return (best * per_response).sum(dim=1)
