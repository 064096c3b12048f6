"""The structure slot: how the scores of a prompt's responses become one loss per prompt.

Shapes: B prompts, K responses, P pairs. Every function returns a `Term`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.groups import PromptGroup
from ablate.objectives.distances import pair_distance, pair_target, target_entropy
from ablate.objectives.pairs import Pairs, choose_pairs, counted_pairs, is_best
from ablate.objectives.shifts import shifts
from ablate.objectives.transport import sorted_margin


@dataclass(frozen=True)
class Term:
    """The preference term of a batch."""

    #: float[B]: loss of each prompt (finite, but without meaning where not usable)
    per_prompt: Tensor
    #: bool[B]: the prompt has something to compare
    usable: Tensor
    #: comparisons that were ties, dropped or not (scalar)
    ties: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


def structure_term(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """The preference term of `group` given float[B, K] scores; `coefficient` is applied."""
    factor = config.coefficient
    if config.units == "log_ratio":
        factor = factor / config.beta**2
    term = _STRUCTURES[config.structure](config, group, scores)
    return Term(factor * term.per_prompt, term.usable, term.ties, term.metrics)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """float[B]: mean of [B, P] values over the pairs that count, 0 where there is none."""
    kept = torch.where(weight, values, torch.zeros_like(values))
    return kept.sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def _pair(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Each pair's margin against its target; a prompt's loss is the mean over its pairs."""
    assert config.pairing is not None
    pairs = choose_pairs(config.pairing, group)
    weight = counted_pairs(config, pairs)
    shift = shifts(config, group, pairs)
    reward_gap = _rewards_gap(config, group, pairs, scores.dtype)
    target = pair_target(config, reward_gap)
    margin = pairs.gap(scores)
    if config.batch_sort != "none":
        margin = sorted_margin(config, group, pairs, scores, weight)
    values = pair_distance(config, shift.factor * (margin - shift.forward), target)
    if config.ties == "half":
        swapped = pair_distance(config, shift.factor * (-margin - shift.backward), target)
        values = torch.where(pairs.tied, 0.5 * (values + swapped), values)
    metrics = {}
    if config.distance in ("ce", "fwd"):
        entropy = torch.as_tensor(target_entropy(target), dtype=scores.dtype, device=scores.device)
        metrics["target_entropy"] = _overall(entropy.expand_as(margin), weight)
    return Term(_mean(values, weight), weight.any(dim=1), pairs.tied.sum(), metrics)


def _rewards_gap(
    config: ObjectiveConfig, group: PromptGroup, pairs: Pairs, dtype: torch.dtype
) -> Tensor | None:
    if config.target != "rewards":
        return None
    return pairs.gap(_rewards(group, dtype))


def _rewards(group: PromptGroup, dtype: torch.dtype) -> Tensor:
    """float[B, K]: rewards, 0 where absent."""
    assert group.rewards is not None
    rewards = group.rewards.to(dtype)
    return torch.where(group.present, rewards, torch.zeros_like(rewards))


def _overall(values: Tensor, weight: Tensor) -> Tensor:
    """Scalar mean over all [B, P] entries that count, without gradient."""
    values = values.detach()
    kept = torch.where(weight, values, torch.zeros_like(values))
    return kept.sum() / weight.sum().clamp(min=1)


def _pointwise(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Each response of a pair on its own: the better pushed up, the worse down, from a baseline.

    Baseline z₀ (arXiv 2402.01306): max(0, mean β·log-ratio of mismatched pairs), no gradient.
    Where the group has none, the mean over the batch's responses of the opposite class stands
    in (the former `kto_pair` loss of TRL), and the metric `z0_mismatched` is 0.
    """
    assert config.pairing is not None
    assert config.desirable_weight is not None
    assert config.undesirable_weight is not None
    pairs = choose_pairs(config.pairing, group)
    weight = counted_pairs(config, pairs)
    up, down = scores.gather(1, pairs.better), scores.gather(1, pairs.worse)
    base_up, base_down, metrics = _baselines(config, group, up, down, weight)
    target = pair_target(config, None)

    def both(better: Tensor, worse: Tensor) -> Tensor:
        return config.desirable_weight * pair_distance(
            config, better - base_up, target
        ) + config.undesirable_weight * pair_distance(config, base_down - worse, target)

    values = both(up, down)
    if config.ties == "half":
        values = torch.where(pairs.tied, 0.5 * (values + both(down, up)), values)
    return Term(_mean(values, weight), weight.any(dim=1), pairs.tied.sum(), metrics)


def _baselines(
    config: ObjectiveConfig, group: PromptGroup, up: Tensor, down: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What the better and the worse responses are measured from, and metrics."""
    zero = up.new_zeros(())
    if config.baseline != "z0":
        return zero, zero, {}
    if group.kl_logps is None or group.kl_ref_logps is None:
        base_up = _overall(down, weight).clamp(min=0)
        base_down = _overall(up, weight).clamp(min=0)
        return base_up, base_down, {"z0": 0.5 * (base_up + base_down), "z0_mismatched": zero}
    ratio = (group.kl_logps.to(up.dtype) - group.kl_ref_logps.to(up.dtype)).detach()
    known = group.kl_mask if group.kl_mask is not None else torch.ones_like(ratio).bool()
    z0 = (config.beta * _overall(ratio, known)).clamp(min=0)
    return z0, z0, {"z0": z0, "z0_mismatched": zero + 1}


def _categorical(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Softmax over the responses against the target's softmax: backward or forward KL.

    RPO's D_bwd = Σ q^b (log q^b - log q^a) and D_fwd with a and b exchanged
    (arXiv 2502.00203, a = β·log-ratios, b = η·rewards).
    """
    present, usable, ties, log_target, target = _group_target(config, group, scores.dtype)
    log_policy = _masked_log_softmax(scores, present)
    if config.distance == "fwd":
        values = (log_policy.exp() * (log_policy - log_target)).sum(dim=1)
    elif config.subtract_entropy:
        values = (target * (log_target - log_policy)).sum(dim=1)
    else:
        values = -(target * log_policy).sum(dim=1)
    entropy = -(target * log_target).sum(dim=1)
    metrics = {"target_entropy": _overall(entropy, usable)}
    return Term(values, usable, ties, metrics)


def _noise_contrastive(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """-Σ_k [ q_k log σ(a_k) + (1/K) log σ(-a_k) ], q the target over K (arXiv 2402.05369)."""
    present, usable, ties, _, target = _group_target(config, group, scores.dtype)
    count = present.sum(dim=1).clamp(min=1)
    against = torch.where(present, F.logsigmoid(-scores), torch.zeros_like(scores)).sum(dim=1)
    values = -(target * F.logsigmoid(scores)).sum(dim=1) - against / count
    return Term(values, usable, ties)


def _group_target(
    config: ObjectiveConfig, group: PromptGroup, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(present, usable, ties, log q, q) with q the target distribution over the responses.

    A hard target is all on the best response, shared among equally good ones (ties=half).
    """
    present = group.present
    usable = present.sum(dim=1) >= 2
    if config.target == "rewards":
        assert config.eta is not None
        log_target = _masked_log_softmax(config.eta * _rewards(group, dtype), present)
        tied = _top_tied(_rewards(group, dtype), present)
        return present, usable, tied.sum(), log_target, log_target.exp() * present
    order = group.order()
    assert order is not None
    best = is_best(order, present)
    tied = _top_tied(order, present)
    target = best.to(dtype) / best.sum(dim=1, keepdim=True).clamp(min=1)
    log_target = torch.where(best, target.clamp(min=torch.finfo(dtype).tiny).log(), 0.0)
    if config.ties == "drop":
        usable = usable & ~tied
    return present, usable, tied.sum(), log_target.to(dtype), target


def _top_tied(order: Tensor, present: Tensor) -> Tensor:
    """bool[B]: more than one response shares the highest score."""
    return is_best(order, present).sum(dim=1) > 1


def _masked_log_softmax(values: Tensor, present: Tensor) -> Tensor:
    """float[B, K]: log-softmax over present responses, 0 where absent."""
    # a prompt without any response would be NaN; it is not usable, so any support will do
    support = present | ~present.any(dim=1, keepdim=True)
    logs = F.log_softmax(values.masked_fill(~support, -torch.inf), dim=1)
    return torch.where(present, logs, torch.zeros_like(logs))


def _loo(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Σ_k (â_k - b̂_k)², each centred on the mean of the others (arXiv 2502.00203, D_sqloo)."""
    term = _centred(config, group, scores)
    count = group.present.sum(dim=1).to(scores.dtype)
    # z_k less the mean of the others is K/(K-1) times z_k less the mean of all
    factor = (count / (count - 1).clamp(min=1)).square()
    return replace(term, per_prompt=factor * term.per_prompt)


def _centred(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Σ_k (a_k - b_k)² after centring both on the mean of the prompt (arXiv 2504.19599)."""
    assert config.eta is not None
    present = group.present
    rewards = _rewards(group, scores.dtype)
    count = present.sum(dim=1, keepdim=True)
    difference = scores - config.eta * rewards
    centred = difference - difference.sum(dim=1, keepdim=True) / count.clamp(min=1)
    values = torch.where(present, centred, torch.zeros_like(centred)).square().sum(dim=1)
    return Term(values, count[:, 0] >= 2, _top_tied(rewards, present).sum())


def _ranking(config: ObjectiveConfig, group: PromptGroup, scores: Tensor) -> Term:
    """Plackett-Luce: Σ_k -log [ e^{a_k} / Σ_{j not better than k} e^{a_j} ] (arXiv 2305.18290).

    With ties, a response is compared with those strictly worse, so that equals do not compete.
    """
    order = group.order()
    assert order is not None
    present = group.present
    pair = present[:, :, None] & present[:, None, :]
    worse = pair & (order[:, None, :] < order[:, :, None])
    own = torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    rivals = scores[:, None, :].expand(worse.shape)
    total = torch.logsumexp(rivals.masked_fill(~(worse | own), -torch.inf), dim=2)
    values = torch.where(present, total - scores, torch.zeros_like(scores)).sum(dim=1)
    tied = pair & (order[:, None, :] == order[:, :, None]) & own.logical_not().triu()
    return Term(values, worse.any(dim=2).any(dim=1), tied.sum())


_STRUCTURES: dict[str, Callable[[ObjectiveConfig, PromptGroup, Tensor], Term]] = {
    "pair": _pair,
    "pointwise": _pointwise,
    "categorical": _categorical,
    "noise_contrastive": _noise_contrastive,
    "loo": _loo,
    "centred": _centred,
    "ranking": _ranking,
}
