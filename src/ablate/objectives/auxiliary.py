"""The auxiliary slot: terms added to the preference term, each with its coefficient."""

import torch
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.groups import PromptGroup
from ablate.objectives.pairs import best_responses


def auxiliary(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Tensor:
    """float[B]: the weighted sum of all auxiliary terms of each prompt.

    `nll_best` is -log π of the best response (the mean over equally good ones), `nll_best_mean`
    the same per token, `sigmoid_best` σ(a) of its score, which holds it down.
    """
    logps = group.policy_logps.to(group.dtype)
    total = logps.new_zeros(group.num_prompts)
    if not config.aux:
        return total
    logps = torch.where(group.present, logps, torch.zeros_like(logps))
    best = best_responses(group).to(logps.dtype)
    best = best / best.sum(dim=1, keepdim=True).clamp(min=1)
    for kind, coefficient in config.aux.items():
        per_response = -logps
        if kind == "nll_best_mean":
            assert group.lengths is not None
            per_response = per_response / group.lengths.clamp(min=1)
        elif kind == "sigmoid_best":
            per_response = torch.sigmoid(scores)
        total = total + coefficient * (best * per_response).sum(dim=1)
    return total
