"""Structures over all responses of a prompt: softmaxes, centred squares, rankings.

Shapes: B prompts, K responses. Every structure returns a `Term`.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.groups import PromptGroup
from ablate.objectives.pairs import is_best
from ablate.objectives.terms import Term, overall, target_values


def categorical(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Softmax over the responses against the target's softmax: backward or forward KL.

    RPO's D_bwd = Σ q^b (log q^b - log q^a) and D_fwd with a and b exchanged
    (arXiv 2502.00203, a = β·log-ratios, b = η·rewards).
    """
    present, usable, ties, log_target, target = group_target(config, group, scores.dtype)
    log_policy = masked_log_softmax(scores, present)
    if config.distance == "fwd":
        values = (log_policy.exp() * (log_policy - log_target)).sum(dim=1)
    elif config.subtract_entropy:
        values = (target * (log_target - log_policy)).sum(dim=1)
    else:
        values = -(target * log_policy).sum(dim=1)
    entropy = -(target * log_target).sum(dim=1)
    metrics = {"target_entropy": overall(entropy, usable)}
    return Term(values, usable, ties, metrics)


def noise_contrastive(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """-Σ_k [ q_k log σ(a_k) + (1/K) log σ(-a_k) ], q the target over K (arXiv 2402.05369)."""
    present, usable, ties, _, target = group_target(config, group, scores.dtype)
    count = present.sum(dim=1).clamp(min=1)
    against = torch.where(present, F.logsigmoid(-scores), torch.zeros_like(scores)).sum(dim=1)
    values = -(target * F.logsigmoid(scores)).sum(dim=1) - against / count
    return Term(values, usable, ties)


def group_target(
    config: ObjectiveConfig, group: PromptGroup, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(present, usable, ties, log q, q) with q the target distribution over the responses.

    A hard target is all on the best response, shared among equally good ones (ties=half).
    """
    present = group.present
    usable = present.sum(dim=1) >= config.needs.min_responses
    if config.target != "hard":
        assert config.eta is not None
        log_target = masked_log_softmax(config.eta * target_values(config, group, dtype), present)
        tied = top_tied(target_values(config, group, dtype), present)
        return present, usable, tied.sum(), log_target, log_target.exp() * present
    order = group.order()
    assert order is not None
    best = is_best(order, present)
    tied = top_tied(order, present)
    target = best.to(dtype) / best.sum(dim=1, keepdim=True).clamp(min=1)
    log_target = torch.where(best, target.clamp(min=torch.finfo(dtype).tiny).log(), 0.0)
    if config.ties == "drop":
        usable = usable & ~tied
    return present, usable, tied.sum(), log_target.to(dtype), target


def top_tied(order: Tensor, present: Tensor) -> Tensor:
    """bool[B]: more than one response shares the highest score."""
    return is_best(order, present).sum(dim=1) > 1


def masked_log_softmax(values: Tensor, present: Tensor) -> Tensor:
    """float[B, K]: log-softmax over present responses, 0 where absent."""
    # a prompt without any response would be NaN; it is not usable, so any support will do
    support = present | ~present.any(dim=1, keepdim=True)
    logs = F.log_softmax(values.masked_fill(~support, -torch.inf), dim=1)
    return torch.where(present, logs, torch.zeros_like(logs))


def loo(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Σ_k (â_k - b̂_k)², each centred on the mean of the others (arXiv 2502.00203, D_sqloo)."""
    term = centred(config, group, scores)
    count = group.present.sum(dim=1).to(scores.dtype)
    # z_k less the mean of the others is K/(K-1) times z_k less the mean of all
    factor = (count / (count - 1).clamp(min=1)).square()
    return replace(term, per_prompt=factor * term.per_prompt)


def centred(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Σ_k (a_k - b_k)² after centring both on the mean of the prompt (arXiv 2504.19599)."""
    assert config.eta is not None
    present = group.present
    rewards = target_values(config, group, scores.dtype)
    count = present.sum(dim=1, keepdim=True)
    difference = scores - config.eta * rewards
    centred = difference - difference.sum(dim=1, keepdim=True) / count.clamp(min=1)
    values = torch.where(present, centred, torch.zeros_like(centred)).square().sum(dim=1)
    return Term(values, count[:, 0] >= 2, top_tied(rewards, present).sum())


def ranking(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Plackett-Luce: Σ_k -log [ e^{a_k} / Σ_{j not better than k} e^{a_j} ] (arXiv 2305.18290).

    With ties, a response is compared with those strictly worse, so that equals do not compete.
    target=rewards gives each rival the temperature of its distance, T_kj = η(r_k - r_j), and the
    response itself the largest of them (arXiv 2306.17492).
    """
    order = group.order()
    assert order is not None
    present = group.present
    pair = present[:, :, None] & present[:, None, :]
    worse = pair & (order[:, None, :] < order[:, :, None])
    own = torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    rivals = scores[:, None, :].expand(worse.shape)
    itself = scores
    if config.target != "hard":
        assert config.eta is not None
        values = config.eta * target_values(config, group, scores.dtype)
        gaps = torch.where(worse, values[:, :, None] - values[:, None, :], 0.0)
        largest = gaps.amax(dim=2)
        itself = largest * scores
        rivals = torch.where(own, itself[:, :, None], gaps * rivals)
    total = torch.logsumexp(rivals.masked_fill(~(worse | own), -torch.inf), dim=2)
    losses = torch.where(present, total - itself, torch.zeros_like(scores)).sum(dim=1)
    tied = pair & (order[:, None, :] == order[:, :, None]) & own.logical_not().triu()
    return Term(losses, worse.any(dim=2).any(dim=1), tied.sum())
