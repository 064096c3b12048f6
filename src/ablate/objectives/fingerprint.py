"""A digest of what an objective computes, so that a corrected loss is known to be another one."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from ablate.config.objective import ObjectiveConfig, objective_config
from ablate.groups import PromptGroup
from ablate.objectives.objective import Objective

#: significant digits kept: coarse enough for other processors, fine enough for any change
_DIGITS = 7
#: relative to the largest number, what counts as rounding noise around zero
_NOISE = 1e-12


def fingerprint(config: dict[str, Any]) -> str:
    """sha256 over loss and gradients in float64 on fixed groups (ragged, with ties, extreme).

    `config` holds the values of an objective's config node. Equal digests mean: the same
    function, up to seven digits. Raises `ConfigError` for a config without meaning.
    """
    objective = Objective(objective_config(config))
    lines = []
    for group in _groups(_further_rewards(objective.config)):
        leaves = {
            name: getattr(group, name).requires_grad_(True)
            for name in ("policy_logps", "token_logps", "token_kl")
            if name != "token_kl" or objective.needs.token_kl
        }
        output = objective(group)
        gradients = torch.autograd.grad(
            output.loss, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        for values in (output.loss, output.per_prompt, *gradients):
            lines.append(_text(values.detach()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _further_rewards(config: ObjectiveConfig) -> int:
    """How many further rewards the weights of an objective and its parts are for."""
    for part in config.parts:
        if part.extra_weights is not None:
            return len(part.extra_weights)
        if part.reward_weights is not None:
            return len(part.reward_weights) - 1
    return 1


def _text(values: Tensor) -> str:
    floor = _NOISE * float(values.abs().max()) if values.numel() else 0.0
    return " ".join(
        f"{0.0 if abs(value) <= floor else value:.{_DIGITS - 1}e}"
        for value in values.flatten().tolist()
    )


def _groups(extra: int) -> list[PromptGroup]:
    """Fixed groups: pairs, a ragged group with ties, extreme log-ratios, policy == reference."""
    return [
        _group(prompts=3, responses=2, seed=1, extra=extra),
        _group(prompts=4, responses=5, seed=2, ragged=True, extra=extra),
        _group(prompts=2, responses=4, seed=3, scale=300.0, extra=extra),
        _group(prompts=2, responses=3, seed=4, at_reference=True, extra=extra),
    ]


def _group(
    prompts: int,
    responses: int,
    seed: int,
    extra: int,
    ragged: bool = False,
    scale: float = 1.0,
    at_reference: bool = False,
) -> PromptGroup:
    """One fixed group; integer arithmetic stands in for a random generator, which may change."""
    tokens = 9
    grid = (prompts, responses)
    lengths = (1 + tokens * _noise(grid, seed)).long().clamp(max=tokens)
    real = torch.arange(tokens) < lengths[..., None]
    token_ref = torch.where(real, -0.1 - 2 * _noise((*grid, tokens), seed + 10), 0.0)
    drift = scale * (_noise((*grid, tokens), seed + 20) - 0.5)
    token_policy = token_ref.clone()
    if not at_reference:
        token_policy = torch.where(real, (token_ref + drift).clamp(max=-1e-3), 0.0)
    # a coarse grid makes ties
    rewards = (6 * _noise(grid, seed + 30)).floor() / 2
    wins = _noise((*grid, responses), seed + 60)
    mask = torch.ones(grid, dtype=torch.bool)
    if ragged:
        mask[0, -1] = mask[1, 0] = False
        mask[-1, 1:] = False
    return PromptGroup(
        policy_logps=token_policy.sum(dim=2),
        ref_logps=token_ref.sum(dim=2),
        rewards=rewards,
        lengths=lengths,
        mask=mask,
        pairing_key=torch.arange(responses - 1, -1, -1).expand(grid),
        kl_logps=-20 * _noise(grid, seed + 40),
        kl_ref_logps=-21 * _noise(grid, seed + 40),
        extra_rewards=_noise((*grid, extra), seed + 50),
        token_logps=token_policy,
        token_ref_logps=token_ref,
        old_token_logps=torch.where(real, token_ref - 0.5 * _noise((*grid, tokens), seed + 160), 0),
        prev_logps=token_ref.sum(dim=2) - _noise(grid, seed + 70),
        win_probs=0.5 * (1 + wins - wins.transpose(1, 2)),
        log_sum_sq=-lengths * _noise(grid, seed + 80),
        token_kl=_noise((*grid, tokens), seed + 90),
        token_weights=_noise((*grid, tokens), seed + 100),
        token_kl_weights=_noise((*grid, tokens), seed + 110),
        gold_logps=-20 * _noise((prompts,), seed + 120),
        gold_lengths=(1 + tokens * _noise((prompts,), seed + 130)).long(),
        rationale_logps=-20 * _noise((prompts,), seed + 140),
        sample_logps=-20 * _noise((prompts,), seed + 150),
    )


def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """float64 in [0, 1), reproducible on every machine."""
    count = 1
    for size in shape:
        count *= size
    state, values = 12345 + seed, []
    for _ in range(count):
        state = (1103515245 * state + 12345) % 2**31
        values.append((state >> 8) / 2**23)
    return torch.tensor(values, dtype=torch.float64).reshape(shape)
