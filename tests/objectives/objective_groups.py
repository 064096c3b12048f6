"""Random groups in float64 for the tests of objectives."""

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import strategies as st

from ablate.config.levels import level_names
from ablate.objectives import Objective, PromptGroup, State, make_objective

LEVELS = level_names("objective")


def random_group(
    seed: int = 0,
    prompts: int = 4,
    responses: int = 4,
    *,
    ragged: bool = False,
    ties: bool = False,
    scale: float = 1.0,
    longest: int = 12,
    extra: int = 1,
) -> PromptGroup:
    """Everything an objective may read. `scale` is the size of the log-ratios."""
    rng = np.random.default_rng(seed)
    grid = (prompts, responses)
    lengths = rng.integers(1, longest + 1, grid)
    lengths[0, 0] = 1
    real = np.arange(longest) < lengths[..., None]
    ref = np.where(real, -rng.exponential(1.0, (*grid, longest)), 0.0)
    drift = scale * rng.normal(size=grid)[..., None] / lengths[..., None]
    policy = np.where(real, ref + drift, 0.0)
    rewards = rng.normal(size=grid)
    if ties:
        rewards = np.round(rewards)
    mask = np.ones(grid, dtype=bool)
    if ragged:
        mask = rng.random(grid) < 0.7
    optional = np.random.default_rng(seed + 1_000_000)  # what is drawn above stays as it was
    strength = optional.normal(size=grid)
    kl = np.where(real, optional.exponential(0.5, (*grid, longest)), 0.0)
    old = np.where(real, ref + 0.1 * optional.normal(size=(*grid, longest)), 0.0)
    return PromptGroup(
        policy_logps=torch.tensor(policy.sum(-1)),
        ref_logps=torch.tensor(ref.sum(-1)),
        rewards=torch.tensor(rewards),
        lengths=torch.tensor(lengths),
        mask=torch.tensor(mask),
        pairing_key=torch.tensor(rng.permuted(np.tile(np.arange(responses), (prompts, 1)), axis=1)),
        kl_logps=torch.tensor(rng.normal(-20, 5, grid)),
        kl_ref_logps=torch.tensor(rng.normal(-21, 5, grid)),
        extra_rewards=torch.tensor(rng.normal(size=(*grid, extra))),
        token_logps=torch.tensor(policy),
        token_ref_logps=torch.tensor(ref),
        old_token_logps=torch.tensor(old),
        prev_logps=torch.tensor(ref.sum(-1) + optional.normal(size=grid)),
        win_probs=torch.sigmoid(torch.tensor(strength[:, :, None] - strength[:, None, :])),
        log_sum_sq=torch.tensor(-optional.exponential(1.0, grid) * lengths),
        token_kl=torch.tensor(min(scale, 1.0) * kl),
        token_weights=torch.tensor(optional.random((*grid, longest))),
        token_kl_weights=torch.tensor(optional.random((*grid, longest))),
        gold_logps=torch.tensor(-optional.exponential(5.0, prompts)),
        gold_lengths=torch.tensor(optional.integers(1, longest + 1, prompts)),
        rationale_logps=torch.tensor(-optional.exponential(5.0, prompts)),
        sample_logps=torch.tensor(-optional.exponential(5.0, prompts)),
    )


def group_strategy(max_scale: float = 10.0) -> st.SearchStrategy[PromptGroup]:
    """Groups with ragged K, ties, one-token and long responses, policy at the reference."""
    return st.builds(
        random_group,
        seed=st.integers(0, 10_000),
        prompts=st.integers(1, 4),
        responses=st.integers(2, 6),
        ragged=st.booleans(),
        ties=st.booleans(),
        scale=st.sampled_from([0.0, 0.01, 1.0, max_scale]),
        longest=st.sampled_from([1, 5, 200]),
    )


def leaf_name(objective: Objective) -> str:
    """The field through which an objective sees the policy."""
    return "token_logps" if objective.needs.tokens else "policy_logps"


def values_and_gradient(
    objective: Objective, group: PromptGroup, state: State | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """per_prompt, and the gradient of the loss in the log-probs (token-level where read)."""
    name = leaf_name(objective)
    leaf = getattr(group, name).clone().requires_grad_(True)
    output = objective(change(group, **{name: leaf}), state)
    output.loss.backward()
    assert leaf.grad is not None
    return output.per_prompt.detach(), leaf.grad


def change(group: PromptGroup, **fields: torch.Tensor | None) -> PromptGroup:
    """A copy of a group with some fields replaced."""
    names = group.__dataclass_fields__
    return PromptGroup(**{**{name: getattr(group, name) for name in names}, **fields})


def pair(a: float, b: float = 0.0, *, reward: float = 1.0, other: float = 0.0) -> PromptGroup:
    """One prompt, two one-token responses with log-ratios a and b, the first one better."""
    return PromptGroup(
        policy_logps=torch.tensor([[a - 1.0, b - 2.0]], dtype=torch.float64),
        ref_logps=torch.tensor([[-1.0, -2.0]], dtype=torch.float64),
        rewards=torch.tensor([[reward, other]], dtype=torch.float64),
        lengths=torch.tensor([[1, 1]]),
    )


def every_level(predicate: Callable[[Objective], bool] = lambda _: True) -> list[str]:
    """Names of the levels whose objective satisfies the predicate."""
    return [name for name in LEVELS if predicate(make_objective(name))]
