"""What a group gives an objective: fields that are missing, and rewards made of several."""

from dataclasses import replace

import torch

from ablate.config.objective import ObjectiveConfig
from ablate.config.objective_needs import slot_needs
from ablate.errors import DataError
from ablate.groups import PromptGroup

#: needs that are one field each
_FIELDS = {
    "win_probs": "win_probs",
    "previous": "prev_logps",
    "token_kl": "token_kl",
    "log_sum_sq": "log_sum_sq",
    "gold": "gold_logps",
    "rationale": "rationale_logps",
    "reference_sample": "sample_logps",
    "lengths": "lengths",
    "extra_rewards": "extra_rewards",
}


def missing_fields(config: ObjectiveConfig, group: PromptGroup) -> list[str]:
    """Names of the fields that an objective's own slots need and a group lacks.

    Raises `DataError` where the number of further rewards is not that of their weights.
    """
    needs = slot_needs(config)
    missing = []
    if needs.reference and not needs.tokens and group.ref_logps is None:
        missing.append("ref_logps")
    if needs.scores and group.rewards is None:
        missing.append("rewards (scores: the order of the responses is not enough)")
    elif needs.order and group.order() is None:
        missing.append("rewards or ranks")
    for need, name in _FIELDS.items():
        if getattr(needs, need) and getattr(group, name) is None:
            missing.append(name)
    if needs.tokens and group.token_logps is None:
        missing.append("token_logps")
    if needs.tokens and needs.reference and group.token_ref_logps is None:
        missing.append("token_ref_logps")
    if needs.token_weights:
        missing += [
            name for name in ("token_weights", "token_kl_weights") if getattr(group, name) is None
        ]
    if "nll_gold_mean" in config.aux and group.gold_lengths is None:
        missing.append("gold_lengths")
    if not missing:
        _check_numbers(config, group)
    return missing


def _check_numbers(config: ObjectiveConfig, group: PromptGroup) -> None:
    given = 0 if group.extra_rewards is None else group.extra_rewards.shape[2]
    for name, wanted in (("extra_weights", 0), ("reward_weights", 1)):
        weights = getattr(config, name)
        if weights is not None and len(weights) - wanted != given:
            raise DataError(
                f"Objective '{config.name}' has {len(weights)} {name} for {given} extra_rewards"
                + (" and the reward itself." if wanted else ".")
            )


def with_rewards(config: ObjectiveConfig, group: PromptGroup) -> PromptGroup:
    """The group with the rewards that `rewards_from` asks for."""
    if config.rewards_from == "group":
        return group
    assert group.rewards is not None
    assert group.extra_rewards is not None
    rewards, extra = group.rewards.to(group.dtype), group.extra_rewards.to(group.dtype)
    everything = torch.cat([rewards[..., None], extra], dim=2)
    everything = torch.where(group.present[..., None], everything, 0.0)
    if config.rewards_from == "mean":
        return replace(group, rewards=everything.mean(dim=2))
    weights = torch.tensor(config.reward_weights, dtype=group.dtype, device=rewards.device)
    return replace(group, rewards=everything @ weights)
