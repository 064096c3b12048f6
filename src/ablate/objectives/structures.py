"""The structure slot: how the scores of a prompt's responses become one loss per prompt.

Shapes: B prompts, K responses, P pairs. Every function returns a `Term`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.config.objective_rules import VALUES
from ablate.groups import CERTAIN, PromptGroup
from ablate.objectives.distances import Target, pair_distance, pair_target, target_entropy
from ablate.objectives.groupwise import categorical, centred, loo, noise_contrastive, ranking
from ablate.objectives.listwise import each, likelihood, one_vs_rest, positives
from ablate.objectives.pairs import Pairs, choose_pairs, counted_pairs
from ablate.objectives.policy_gradient import policy_gradient
from ablate.objectives.shifts import shifts
from ablate.objectives.state import State
from ablate.objectives.terms import Term, mean_of, overall, sum_of, target_values
from ablate.objectives.transport import sorted_margin
from ablate.objectives.weights import pair_weights

#: the authors' lower limit for a β that follows the batch (arXiv 2407.08639)
_LOWEST_BETA = 1e-3


def structure_term(
    config: ObjectiveConfig, group: PromptGroup, scores: Tensor, state: State
) -> Term:
    """The preference term of `group` given float[B, K] scores; `coefficient` is applied."""
    factor = config.coefficient
    if config.units == "log_ratio":
        factor = factor / config.beta**2
    if config.structure in _WITH_STATE:
        term = _WITH_STATE[config.structure](config, group, scores, state)
    else:
        term = _STRUCTURES[config.structure](config, group, scores)
    return Term(factor * term.per_prompt, term.usable, term.ties, term.metrics)


def _pair(config: ObjectiveConfig, group: PromptGroup, scores: Tensor, state: State) -> Term:
    """Each pair's margin against its target; a prompt's loss is the mean over its pairs."""
    assert config.pairing is not None
    pairs = choose_pairs(config.pairing, group)
    counted = counted_pairs(config, pairs)
    shift = shifts(config, group, pairs, scores)
    target = pair_target(config, _value_gap(config, group, pairs, scores.dtype))
    margin = pairs.gap(scores)
    if config.batch_sort != "none":
        margin = sorted_margin(config, group, pairs, scores, counted)
    metrics = {}
    if config.adapt == "gap":
        margin, counted = _follow_gap(config, margin, counted, state)
    values = pair_distance(config, shift.factor * (margin - shift.forward), target)
    if config.ties == "half":
        swapped = pair_distance(config, shift.factor * (-margin - shift.backward), target)
        values = torch.where(pairs.tied, 0.5 * (values + swapped), values)
    weight = pair_weights(config, group, pairs, scores)
    if weight is not None:
        values = weight * values
        metrics["pair_weight"] = overall(weight, counted)
    if config.distance in ("ce", "fwd"):
        entropy = torch.as_tensor(target_entropy(target), dtype=scores.dtype, device=scores.device)
        metrics["target_entropy"] = overall(entropy.expand_as(margin), counted)
    reduced = mean_of if config.over_pairs == "mean" else sum_of
    return Term(reduced(values, counted), counted.any(dim=1), pairs.tied.sum(), metrics)


def _value_gap(
    config: ObjectiveConfig, group: PromptGroup, pairs: Pairs, dtype: torch.dtype
) -> Tensor | None:
    if config.target == "win_prob":
        assert group.win_probs is not None
        rows = group.win_probs.to(dtype).take_along_dim(pairs.better[..., None], dim=1)
        wins = rows.take_along_dim(pairs.worse[..., None], dim=2)[..., 0]
        # a comparison that contradicts the order counts as even, as with the authors' smoothing
        wins = torch.where(pairs.valid, wins, 0.5).clamp(0.5, 1 - CERTAIN)
        return torch.logit(wins)
    if config.target not in VALUES:
        return None
    return pairs.gap(target_values(config, group, dtype))


def _follow_gap(
    config: ObjectiveConfig, pairs_gap: Tensor, counted: Tensor, state: State
) -> tuple[Tensor, Tensor]:
    """Margins at the β of the batch, and the pairs that are left (arXiv 2407.08639).

    β·(1 + a·(gap of the pairs kept - running gap)), at least 0.001. The authors draw the pairs to
    keep with a probability that falls with their distance from the running gap; here the nearest
    are kept.
    """
    assert config.gap_sensitivity is not None
    away = (pairs_gap.detach().double() / config.beta - state["gap_mean"]).abs()
    factor = 1 + config.gap_sensitivity * (state["kept_gap"] - state["gap_mean"])
    used = max(config.beta * factor, _LOWEST_BETA)
    return pairs_gap * (used / config.beta), counted & (away <= state["reach"])


def _pointwise(config: ObjectiveConfig, group: PromptGroup, scores: Tensor, state: State) -> Term:
    """Each response of a pair on its own: the better pushed up, the worse down, from a baseline.

    Baseline z₀ (arXiv 2402.01306): max(0, mean β·log-ratio of mismatched pairs), no gradient.
    Where the group has none, the mean over the batch's responses of the opposite class stands
    in (the former `kto_pair` loss of TRL), and the metric `z0_mismatched` is 0. A running mean is
    that of the scores of all responses compared so far (arXiv 2404.04656).
    """
    assert config.pairing is not None
    assert config.desirable_weight is not None
    assert config.undesirable_weight is not None
    pairs = choose_pairs(config.pairing, group)
    weight = counted_pairs(config, pairs)
    up, down = scores.gather(1, pairs.better), scores.gather(1, pairs.worse)
    base_up, base_down, metrics = _baselines(config, group, up, down, weight, state)
    if config.target in VALUES:
        # each response has a value of its own, which does not depend on who is better
        assert config.eta is not None
        aims = config.eta * target_values(config, group, scores.dtype)
        values = config.desirable_weight * pair_distance(
            config, up - base_up, Target(0.0, aims.gather(1, pairs.better))
        ) + config.undesirable_weight * pair_distance(
            config, down - base_down, Target(0.0, aims.gather(1, pairs.worse))
        )
        return Term(mean_of(values, weight), weight.any(dim=1), pairs.tied.sum(), metrics)
    target = pair_target(config, None)

    def both(better: Tensor, worse: Tensor) -> Tensor:
        return config.desirable_weight * pair_distance(
            config, better - base_up, target
        ) + config.undesirable_weight * pair_distance(config, base_down - worse, target)

    values = both(up, down)
    if config.ties == "half":
        values = torch.where(pairs.tied, 0.5 * (values + both(down, up)), values)
    return Term(mean_of(values, weight), weight.any(dim=1), pairs.tied.sum(), metrics)


def _baselines(
    config: ObjectiveConfig,
    group: PromptGroup,
    up: Tensor,
    down: Tensor,
    weight: Tensor,
    state: State,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What the better and the worse responses are measured from, and metrics."""
    zero = up.new_zeros(())
    if config.baseline == "running_mean":
        delta = zero + state["delta"]
        return delta, delta, {}
    if config.baseline != "z0":
        return zero, zero, {}
    if group.kl_logps is None or group.kl_ref_logps is None:
        base_up = overall(down, weight).clamp(min=0)
        base_down = overall(up, weight).clamp(min=0)
        return base_up, base_down, {"z0": 0.5 * (base_up + base_down), "z0_mismatched": zero}
    ratio = (group.kl_logps.to(up.dtype) - group.kl_ref_logps.to(up.dtype)).detach()
    known = group.kl_mask if group.kl_mask is not None else torch.ones_like(ratio).bool()
    z0 = (config.beta * overall(ratio, known)).clamp(min=0)
    return z0, z0, {"z0": z0, "z0_mismatched": zero + 1}


_WITH_STATE: dict[str, Callable[[ObjectiveConfig, PromptGroup, Tensor, State], Term]] = {
    "pair": _pair,
    "pointwise": _pointwise,
}
_STRUCTURES: dict[str, Callable[[ObjectiveConfig, PromptGroup, Tensor], Term]] = {
    "each": each,
    "categorical": categorical,
    "noise_contrastive": noise_contrastive,
    "loo": loo,
    "centred": centred,
    "ranking": ranking,
    "one_vs_rest": one_vs_rest,
    "positives": positives,
    "likelihood": likelihood,
    "policy_gradient": policy_gradient,
}
