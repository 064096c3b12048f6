"""Properties that every level has, on groups made by hypothesis."""

import math

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from objective_groups import (
    LEVELS,
    change,
    every_level,
    group_strategy,
    leaf_name,
    random_group,
    values_and_gradient,
)

from ablate.objectives import PromptGroup, make_objective

examples = settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
#: gains 2^r that grow with the rewards themselves, no baseline within the prompt, as published
NOT_SHIFT_INVARIANT = {"lipo_lambda", "reinforce_pp"}


def permuted(group: PromptGroup, seed: int) -> tuple[PromptGroup, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    index = torch.rand(group.policy_logps.shape, generator=generator).argsort(dim=1)
    fields = {}
    for name in group.__dataclass_fields__:
        value = getattr(group, name)
        if name == "win_probs" and value is not None:
            rows = value.gather(1, index[..., None].expand_as(value))
            fields[name] = rows.gather(2, index[:, None, :].expand_as(value))
        elif value is not None and value.dim() > 1 and not name.startswith("kl_"):
            extra = value.dim() - 2
            at = index.reshape(*index.shape, *([1] * extra)).expand(*index.shape, *value.shape[2:])
            fields[name] = value.gather(1, at)
    return change(group, **fields), index


@pytest.mark.parametrize("name", LEVELS)
@examples
@given(group=group_strategy())
def test_loss_and_gradient_are_finite_and_zero_where_nothing_is_compared(name, group):
    objective = make_objective(name)
    output = objective(group)
    values, gradient = values_and_gradient(objective, group)
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()
    assert (values[~output.usable] == 0).all()
    assert (gradient[~output.usable] == 0).all()
    assert (gradient[~group.present] == 0).all()
    few = group.present.sum(dim=1) < objective.needs.min_responses
    assert not (output.usable & few).any()
    assert all(math.isfinite(value) for value in output.metrics.values())
    assert output.metrics["usable"] + output.metrics["unusable"] == group.num_prompts


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_log_ratios_stay_finite_in_low_precision(name, size, dtype):
    base = random_group(3, prompts=2, responses=5)
    steps = torch.linspace(0, size, 5).expand(2, 5)
    length = base.token_logps.shape[2]
    fields = {
        "policy_logps": (base.ref_logps + steps).to(dtype),
        "ref_logps": base.ref_logps.to(dtype),
        "token_logps": (base.token_ref_logps + steps[..., None] / length).to(dtype),
        "token_ref_logps": base.token_ref_logps.to(dtype),
        "rewards": base.rewards.to(dtype),
    }
    objective = make_objective(name)
    values, gradient = values_and_gradient(objective, change(base, **fields))
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LEVELS)
@examples
@given(group=group_strategy(), seed=st.integers(0, 100))
def test_order_of_responses_does_not_matter(name, group, seed):
    objective = make_objective(name)
    other, index = permuted(group, seed)
    values, gradient = values_and_gradient(objective, group)
    again, moved = values_and_gradient(objective, other)
    torch.testing.assert_close(again, values, rtol=1e-10, atol=1e-12)
    if gradient.dim() == 2:
        torch.testing.assert_close(moved, gradient.gather(1, index), rtol=1e-9, atol=1e-12)
    assert objective(other).metrics == pytest.approx(objective(group).metrics, rel=1e-9, abs=1e-12)


def poison(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    absent = ~present.reshape(*present.shape, *([1] * (values.dim() - 2)))
    return values.masked_fill(absent, float("nan"))


@pytest.mark.parametrize("name", LEVELS)
@examples
@given(group=group_strategy(), seed=st.integers(0, 100))
def test_absent_responses_change_nothing(name, group, seed):
    objective = make_objective(name)
    values, gradient = values_and_gradient(objective, group)
    width = group.num_responses
    padded = group.pad_to(width + 3)
    poisoned = change(
        padded,
        **{
            field: poison(getattr(padded, field), padded.present)
            for field in (
                "policy_logps",
                "ref_logps",
                "rewards",
                "extra_rewards",
                "token_logps",
                "token_ref_logps",
                "old_token_logps",
                "prev_logps",
                "log_sum_sq",
                "token_kl",
                "token_weights",
                "token_kl_weights",
                "win_probs",
            )
        },
    )
    wide, wide_gradient = values_and_gradient(objective, poisoned)
    torch.testing.assert_close(wide, values, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(wide_gradient[:, :width], gradient, rtol=1e-9, atol=1e-12)
    assert (wide_gradient[:, width:] == 0).all()


@pytest.mark.parametrize("name", every_level(lambda o: o.log_z == "cancels" and not o.config.aux))
@examples
@given(group=group_strategy(), shift=st.floats(-50, 50))
def test_log_z_cancels_where_declared(name, group, shift):
    objective = make_objective(name)
    prompts = torch.arange(1, group.num_prompts + 1, dtype=torch.float64)[:, None]
    moved = change(group, policy_logps=group.policy_logps + shift * prompts)
    itself = objective.config.weight == "policy" or objective.needs.behaviour
    if itself:
        # the weight, or the ratio to π_old, looks at π: the log-ratio moves by its reference
        moved = change(group, ref_logps=group.ref_logps - shift * prompts)
    if objective.needs.tokens and itself:
        tokens = group.token_ref_logps.clone()
        tokens[:, :, 0] -= shift * prompts
        moved = change(moved, token_ref_logps=tokens)
    elif objective.needs.tokens:
        # tokens all responses share carry the shift: the tail beyond them is down-weighted
        tokens = group.token_logps.clone()
        tokens[:, :, 0] += shift * prompts
        moved = change(moved, token_logps=tokens)
    values, gradient = values_and_gradient(objective, group)
    again, again_gradient = values_and_gradient(objective, moved)
    torch.testing.assert_close(again, values, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(again_gradient, gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", every_level(lambda o: o.log_z != "cancels"))
def test_log_z_matters_where_it_does_not_cancel(name):
    objective = make_objective(name)
    group = random_group(5)
    constants = torch.arange(1.0, 5.0)[:, None]  # log Z is another number for each prompt
    if objective.config.across_prompts:
        constants = torch.arange(1.0, 17.0).view(4, 4)  # here each response has a prompt
    moved = change(group, policy_logps=group.policy_logps - constants)
    if objective.needs.tokens:
        tokens = group.token_logps.clone()
        tokens[:, :, 0] -= constants
        moved = change(moved, token_logps=tokens)
    values, moved_values = objective(group).per_prompt, objective(moved).per_prompt
    assert (values - moved_values).abs().max() > 1e-5


@pytest.mark.parametrize("name", sorted(set(LEVELS) - NOT_SHIFT_INVARIANT))
@examples
@given(group=group_strategy(), shift=st.floats(-20, 20))
def test_a_constant_added_to_the_rewards_of_a_prompt_drops_out(name, group, shift):
    objective = make_objective(name)
    # quarter steps are exact in binary: adding them makes and breaks no tie
    rewards = (4 * group.rewards).round() / 4
    start = change(group, rewards=rewards)
    moved = change(group, rewards=rewards + round(shift * 4) / 4)
    values, _ = values_and_gradient(objective, start)
    again, _ = values_and_gradient(objective, moved)
    torch.testing.assert_close(again, values, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", every_level(lambda o: not o.needs.scores))
@examples
@given(group=group_strategy())
def test_order_is_enough_where_scores_are_not_needed(name, group):
    objective = make_objective(name)
    ranks = torch.exp(group.rewards) * 3
    only_order = change(group, rewards=None, ranks=ranks)
    if objective.needs.win_probs and not objective.needs.order:
        only_order = group
    values, gradient = values_and_gradient(objective, group)
    again, again_gradient = values_and_gradient(objective, only_order)
    assert torch.equal(again, values)
    assert torch.equal(again_gradient, gradient)


@pytest.mark.parametrize(
    "name", every_level(lambda o: o.config.weight != "policy" and o.config.clip != "cispo")
)
@examples
@given(
    seed=st.integers(0, 1000),
    ragged=st.booleans(),
    ties=st.booleans(),
    scale=st.sampled_from([0.0, 1.0, 5.0]),
)
def test_gradient_is_that_of_finite_differences(name, seed, ragged, ties, scale):
    """Levels that weigh by the policy itself differ by the weight's own slope: see their tests."""
    objective = make_objective(name)
    group = random_group(seed, 2, 3, ragged=ragged, ties=ties, scale=scale, longest=3)
    fields = [leaf_name(objective)]
    if objective.needs.token_kl and objective.config.kl_stop != "better":
        fields.append("token_kl")
    kinked = objective.config.distance == "hinge" or objective.config.shift == "falling_best"
    if kinked or objective.config.weight == "lambda_rank":
        # keep off the kink and off equal ranks, where there is no derivative
        steps = torch.arange(6, dtype=torch.float64).view(2, 3)
        moved = group.policy_logps + 1e-3 * (1 + steps)
        group = change(group, policy_logps=moved)
    state = None
    if objective.stateful:
        # baselines and the batch's β enter without gradient, so they must stand still
        state = objective.advanced_state(objective.initial_state(), group)
        state = {key: 1.01 * v + 1e-3 if key == "reach" else v for key, v in state.items()}
    step = 1e-5
    for field in fields:
        start = getattr(group, field)
        leaf = start.clone().requires_grad_(True)
        objective(change(group, **{field: leaf}), state).loss.backward()
        numeric = torch.zeros_like(start)
        for position in range(start.numel()):
            nudge = torch.zeros_like(start).view(-1)
            nudge[position] = step
            nudge = nudge.view_as(start)
            up = objective(change(group, **{field: start + nudge}), state).loss
            down = objective(change(group, **{field: start - nudge}), state).loss
            numeric.view(-1)[position] = (up - down) / (2 * step)
        torch.testing.assert_close(leaf.grad, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", LEVELS)
def test_no_usable_prompt_gives_zero_loss_and_zero_gradient(name):
    objective = make_objective(name)
    group = random_group(1, 3, 3)
    alone = objective.needs.min_responses > 1
    lonely = change(group, mask=torch.tensor([[alone, False, False]] * 2 + [[False] * 3]))
    values, gradient = values_and_gradient(objective, lonely)
    output = objective(lonely)
    assert output.loss == 0
    assert not output.usable.any()
    assert (values == 0).all()
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", every_level(lambda o: o.needs.min_responses > 1))
def test_a_single_response_is_never_usable(name):
    group = random_group(1, 3, 1)
    output = make_objective(name)(group)
    assert output.loss == 0
    assert output.metrics["unusable"] == 3


@pytest.mark.parametrize("name", LEVELS)
@examples
@given(group=group_strategy())
def test_unused_responses_do_not_enter_the_loss(name, group):
    objective = make_objective(name)
    used = objective.used(group)
    _, gradient = values_and_gradient(objective, group)
    if gradient.dim() == 2:
        assert (gradient[~used] == 0).all()
    assert (used <= group.present).all()
    moved = change(
        group,
        policy_logps=torch.where(used, group.policy_logps, group.policy_logps - 5),
        ref_logps=torch.where(used, group.ref_logps, group.ref_logps - 1),
    )
    if not objective.needs.tokens:
        torch.testing.assert_close(objective(moved).per_prompt, objective(group).per_prompt)


@pytest.mark.parametrize("name", LEVELS)
def test_descent_prefers_the_better_response(name):
    """From the reference, a small step along the negative gradient raises the margin.

    DiscoPOP is the exception, as published: its gate turns the gradient round where the margin
    is near zero, the loss is lower at small negative margins.
    """
    objective = make_objective(name)
    group = random_group(2, 6, 3, scale=0.0)
    gaps = group.rewards[:, :, None] - group.rewards[:, None, :]
    group.win_probs = torch.sigmoid(gaps)
    leaf = leaf_name(objective)
    _, gradient = values_and_gradient(objective, group)
    stepped = change(group, **{leaf: getattr(group, leaf) - 0.1 * gradient})
    before, after = objective(group), objective(stepped)
    # weights move with the policy, as cispo's do
    if objective.config.weight == "none" and objective.config.clip != "cispo":
        assert after.loss < before.loss
    raised = after.metrics["margin"] > before.metrics["margin"]
    assert raised == (name != "discopop")
