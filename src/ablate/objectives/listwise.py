"""Further structures over all responses: each on its own, one against the rest, likelihood.

Shapes: B prompts, K responses. Every structure returns a `Term`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.groups import PromptGroup
from ablate.objectives.groupwise import group_target, top_tied
from ablate.objectives.terms import Term, mean_of, target_values


def each(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Mean over the responses of (a_k - η·value_k)², nothing subtracted (arXiv 2410.02197)."""
    assert config.eta is not None
    present = group.present
    values = target_values(config, group, scores.dtype)
    losses = mean_of((scores - config.eta * values).square(), present)
    return Term(losses, present.sum(dim=1) >= 2, top_tied(values, present).sum())


def one_vs_rest(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Mean over i of w_i·-log σ(-[log Σ_{j≠i} e^{a_j - a_i} - log(K - 1)]) (arXiv 2504.15477).

    w_i = (2^rel_i - 1)/log₂(1 + rank_i) with rel_i the reward above the prompt's worst and rank_i
    the place by reward (equal rewards share the mean place).
    """
    present = group.present
    count = present.sum(dim=1)
    pair = present[:, :, None] & present[:, None, :]
    rivals = pair & ~torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    gaps = (scores[:, None, :] - scores[:, :, None]).masked_fill(~rivals, -torch.inf)
    # a response without rivals is not usable; any finite row keeps its gradient defined
    lonely = ~rivals.any(dim=2, keepdim=True)
    total = torch.logsumexp(gaps.masked_fill(lonely, 0.0), dim=2)
    others = (count - 1).clamp(min=1).to(scores.dtype).log()[:, None]
    weight = _relevance(target_values(config, group, scores.dtype), present)
    losses = mean_of(weight * -F.logsigmoid(others - total), present)
    values = target_values(config, group, scores.dtype)
    # where all are equal no response is relevant
    usable = (weight > 0).any(dim=1) & (count >= 2)
    return Term(losses, usable, top_tied(values, present).sum())


def _relevance(rewards: Tensor, present: Tensor) -> Tensor:
    """float[B, K]: gain over discount of each response, 0 where absent."""
    lowest = rewards.masked_fill(~present, torch.inf).amin(dim=1, keepdim=True)
    relevance = torch.where(present, rewards - lowest, torch.zeros_like(rewards))
    pair = present[:, None, :] & present[:, :, None]
    ahead = (pair & (rewards[:, None, :] > rewards[:, :, None])).sum(dim=2)
    level = (pair & (rewards[:, None, :] == rewards[:, :, None])).sum(dim=2)
    ahead, level = ahead.to(rewards.dtype), level.to(rewards.dtype)
    rank = 1 + ahead + 0.5 * (level - 1).clamp(min=0)
    return (torch.exp2(relevance.clamp(max=60.0)) - 1) / torch.log2(1 + rank)


def positives(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """-Σ_{i good} ω_i (a_i - τ·log mean_{j bad} e^{a_j/τ})/Σ ω (arXiv 2510.04474).

    Good is what lies above the middle of the prompt's rewards, so that a 0/1 verifier's verdict
    is taken as it is. ω_i = exp(-|y_i|/(λ·L)) with L the prompt's longest response. Prompts whose
    responses are all equal are not usable.
    """
    assert config.tau is not None
    assert config.length_lambda is not None
    assert group.rewards is not None
    assert group.lengths is not None
    present = group.present
    rewards = group.rewards.to(scores.dtype)
    high = rewards.masked_fill(~present, -torch.inf).amax(dim=1, keepdim=True)
    low = rewards.masked_fill(~present, torch.inf).amin(dim=1, keepdim=True)
    usable = (high > low)[:, 0] & present.any(dim=1)
    good = present & (rewards - low > high - rewards) & usable[:, None]
    bad = present & ~good & usable[:, None]
    lengths = torch.where(present, group.lengths, 0).to(scores.dtype)
    longest = lengths.amax(dim=1, keepdim=True).clamp(min=1)
    weight = torch.where(good, torch.exp(-lengths / (config.length_lambda * longest)), 0.0)
    weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    against = (scores / config.tau).masked_fill(~bad, -torch.inf)
    against = against.masked_fill(~bad.any(dim=1, keepdim=True), 0.0)
    number = bad.sum(dim=1).clamp(min=1).to(scores.dtype)
    soft = config.tau * (torch.logsumexp(against, dim=1) - number.log())
    losses = soft - (weight * scores).sum(dim=1)
    return Term(losses, usable, top_tied(torch.where(present, rewards, 0.0), present).sum())


def likelihood(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """-Σ_k q_k a_k: the best response (shared among equals), or softmax(η·rewards).

    aggregate=token_mean divides by the mean number of tokens of the targets in the batch, so that
    the mean over prompts is a mean over tokens.
    """
    _, usable, ties, _, target = group_target(config, group, scores.dtype)
    losses = -(target * scores).sum(dim=1)
    if config.aggregate == "token_mean":
        assert group.lengths is not None
        lengths = torch.where(group.present, group.lengths, 0).to(scores.dtype)
        tokens = torch.where(usable, (target * lengths).sum(dim=1), 0.0).sum()
        losses = losses * (usable.sum() / tokens.clamp(min=1))
    return Term(losses, usable, ties)
