"""Objectives that are another one on moved scores, targets or references, with their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_groups import change, pair, random_group
from scipy.special import entr, expit, log_expit

from ablate.objectives import make_objective

EXACT = {"rtol": 1e-12, "atol": 1e-12}
#: reaches past what log σ can tell from 0, so that a gap of this many is an infinite target
SURE = 1e3


def value_and_slope(objective, group, move=lambda moved: {}, state=None):
    """per_prompt, and the gradient in the policy's log-probs before they are moved."""
    leaf = group.policy_logps.clone().requires_grad_(True)
    begun = change(group, policy_logps=leaf)
    output = objective(change(begun, **move(begun)), state)
    return output.per_prompt.detach(), torch.autograd.grad(output.loss, leaf)[0]


def assert_same(one, other, factor=1.0):
    assert one[0].dtype == torch.float64
    assert other[1].norm() > 1e-6
    torch.testing.assert_close(one[0], factor * other[0], **EXACT)
    torch.testing.assert_close(one[1], factor * other[1], **EXACT)


def first_wins(group):
    return (group.rewards == group.rewards.amax(dim=1, keepdim=True)).double()


@pytest.mark.parametrize("epsilon", [0.01, 0.2, 0.45])
def test_smoothed_labels_are_rpo_bwd_at_their_logit_plus_the_entropy(epsilon):
    """cDPO = D_bwd[βΔh || logit(1-ε)] + H(ε), D_bwd over K here at K=2."""
    group = random_group(0, 10, 2, scale=20)
    target = np.log((1 - epsilon) / epsilon)
    value, slope = value_and_slope(
        make_objective("rpo_bwd", beta=0.3, eta=target),
        group,
        lambda moved: {"rewards": first_wins(moved)},
    )
    conservative = value_and_slope(make_objective("cdpo", beta=0.3, epsilon=epsilon), group)
    assert_same(conservative, (value + entr(epsilon) + entr(1 - epsilon), slope))


@pytest.mark.parametrize("epsilon", [0.001, 0.1, 0.4])
def test_exo_is_rpo_fwd_at_the_logit_of_the_smoothed_label(epsilon):
    group = random_group(1, 10, 2, scale=20)
    forward = value_and_slope(
        make_objective("rpo_fwd", beta=0.3, eta=np.log((1 - epsilon) / epsilon)),
        group,
        lambda moved: {"rewards": first_wins(moved)},
    )
    exo = value_and_slope(make_objective("exo", beta=0.3, epsilon=epsilon), group)
    assert_same(exo, forward)


def test_rpo_bwd_is_the_cross_entropy_less_the_entropy_of_the_target():
    """KL(σ(ηΔr) || σ(a)) = -p log σ(a) - (1-p) log σ(-a) - H(p), p = σ(ηΔr)."""
    group = random_group(2, 10, 2, scale=20)
    cross = make_objective("rpo_sq", beta=0.3, eta=1.7, distance="ce", coefficient=1.0)
    value, slope = value_and_slope(cross, group)
    gap = 1.7 * (group.rewards[:, 0] - group.rewards[:, 1]).numpy()
    entropy = entr(expit(gap)) + entr(expit(-gap))
    kl = value_and_slope(make_objective("rpo_bwd", beta=0.3, eta=1.7), group)
    assert_same(kl, (value - torch.from_numpy(entropy), slope))


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.45])
def test_robust_dpo_is_a_cross_entropy_whose_label_exceeds_one(epsilon):
    group = random_group(3, 10, 2, scale=20)
    label = (1 - epsilon) / (1 - 2 * epsilon)
    assert label > 1
    better = value_and_slope(make_objective("dpo", beta=0.3), group)
    worse = value_and_slope(
        make_objective("dpo", beta=0.3), group, lambda moved: {"rewards": -moved.rewards}
    )
    mixed = [label * up + (1 - label) * down for up, down in zip(better, worse, strict=True)]
    assert_same(value_and_slope(make_objective("rdpo", beta=0.3, epsilon=epsilon), group), mixed)


#: level → its values, and each response's score with its part of the margin taken off
SHIFTED = {
    "simpo": (
        {"beta": 2.0, "gamma_beta_ratio": 0.4},
        lambda g: 2.0 * g.policy_logps / g.lengths - 0.8 * first_wins(g),
    ),
    "odpo": (
        {"beta": 0.3, "gap_weight": 0.7},
        lambda g: (
            0.3 * (g.policy_logps - g.ref_logps)
            - 0.7 * first_wins(g) * (g.rewards[:, :1] - g.rewards[:, 1:]).abs().log()
        ),
    ),
    "r_dpo": (
        {"beta": 0.3, "length_weight": 0.05},
        lambda g: 0.3 * (g.policy_logps - g.ref_logps) + 0.05 * g.lengths.double(),
    ),
    "modpo": (
        {"beta": 0.3, "extra_weights": [0.2]},
        lambda g: (0.3 * (g.policy_logps - g.ref_logps) - 0.2 * g.extra_rewards[..., 0]) / 0.8,
    ),
}


@pytest.mark.parametrize("target", ["dpo", "rpo_bwd"])
@pytest.mark.parametrize("name", SHIFTED)
def test_a_margin_is_a_shift_of_the_score_of_a_hard_target(name, target):
    """-log σ(a - m), and (a - w₁Δr)/w₀ for MODPO, as dpo and as rpo_bwd with a sure target."""
    overrides, score = SHIFTED[name]
    group = random_group(4, 12, 2, scale=5)

    def move(moved):
        return {
            "policy_logps": score(moved) + moved.ref_logps,
            "rewards": SURE * first_wins(moved),
        }

    sure = value_and_slope(make_objective(target, beta=1.0), group, move)
    assert_same(value_and_slope(make_objective(name, **overrides), group), sure)


def test_modpo_weighs_the_preference_by_what_the_further_rewards_leave():
    """Two further rewards: w₀ = 1 - w₁ - w₂."""
    group = random_group(5, 12, 2, scale=5, extra=2)

    def move(moved):
        extra = 0.1 * moved.extra_rewards[..., 0] + 0.35 * moved.extra_rewards[..., 1]
        scores = (0.3 * (moved.policy_logps - moved.ref_logps) - extra) / 0.55
        return {"policy_logps": scores + moved.ref_logps}

    modpo = value_and_slope(make_objective("modpo", beta=0.3, extra_weights=[0.1, 0.35]), group)
    assert_same(modpo, value_and_slope(make_objective("dpo", beta=1.0), group, move))


@pytest.mark.parametrize("name", ["rpo_bwd", "rpo_fwd", "rpo_sq", "rpo_sqloo"])
def test_log_z_and_constants_of_the_reward_drop_out_of_rpo(name):
    """Every prompt has its own β log Z(x), and its rewards their own zero."""
    group = random_group(6, 6, 5, ragged=True, scale=3)
    constants = torch.linspace(-4, 7, 6, dtype=torch.float64)[:, None]

    def move(moved):
        return {
            "policy_logps": moved.policy_logps + constants,
            "rewards": moved.rewards - 2 * constants,
        }

    objective = make_objective(name, beta=0.4, eta=1.3)
    assert_same(value_and_slope(objective, group, move), value_and_slope(objective, group))


def test_sqloo_of_two_is_twice_sq_in_gradient_too():
    group = random_group(7, 10, 2, scale=3)
    sqloo = value_and_slope(make_objective("rpo_sqloo", beta=0.4, eta=1.3), group)
    assert_same(sqloo, value_and_slope(make_objective("rpo_sq", beta=0.4, eta=1.3), group), 2.0)


@pytest.mark.parametrize("eta", [0.2, 3.0, 40.0])
def test_sqloo_at_beta_and_eta_is_that_at_their_quotient(eta):
    group = random_group(8, 6, 5, scale=3)
    scaled = value_and_slope(make_objective("rpo_sqloo", beta=0.4, eta=eta), group)
    unit = value_and_slope(make_objective("rpo_sqloo", beta=0.4 / eta, eta=1.0), group)
    assert_same([part / eta**2 for part in scaled], unit)


def test_plackett_luce_is_rpo_bwd_on_the_suffixes_of_the_ranking():
    """Σ_k D_bwd over the k-th best and all below it, the k-th best being the sure one."""
    group = random_group(9, 6, 5, scale=4)
    place = group.rewards.argsort(dim=1, descending=True).argsort(dim=1)
    hard = make_objective("rpo_bwd", beta=0.4)
    suffixes = [
        value_and_slope(
            hard,
            change(group, mask=place >= first, rewards=SURE * (place == first).double()),
        )
        for first in range(4)
    ]
    total = [sum(parts) for parts in zip(*suffixes, strict=True)]
    assert_same(value_and_slope(make_objective("dpo_pl", beta=0.4), group), total)


def test_plackett_luce_of_two_is_dpo():
    group = random_group(10, 10, 2, scale=4)
    ranking = value_and_slope(make_objective("dpo_pl", beta=0.4), group)
    assert_same(ranking, value_and_slope(make_objective("dpo", beta=0.4), group))


@pytest.mark.parametrize("name", ["sppo", "gpo"])
def test_self_play_is_a_pointwise_square_in_reward_units(name):
    """(h - (P-½)/β)² = (1/β²)(βh - (P-½))², P a win probability, or its logit in GPO."""
    group = random_group(11, 6, 4, scale=3)
    reward = value_and_slope(make_objective(name, beta=0.2, units="reward"), group)
    assert_same(value_and_slope(make_objective(name, beta=0.2), group), reward, 1 / 0.2**2)


@pytest.mark.parametrize(("tau", "eta"), [(0.0025, 0.0075), (0.3, 0.4), (0.5, 0.5), (0.0, 2.0)])
def test_inpo_is_rpo_sq_at_one_half_against_a_geometric_mixture(tau, eta):
    """(2/η²)·D_sq[ηΔh || ½], h the log-ratio to π_ref^{τ/η}·π_prev^{1-τ/η}; and as it is printed.

    At τ = η this is IPO, at τ = 0 IPO against the previous policy.
    """
    group = random_group(12, 10, 2, scale=3)
    share = tau / eta

    def mixture(moved):
        return {
            "ref_logps": share * moved.ref_logps + (1 - share) * moved.prev_logps,
            "rewards": 0.5 * first_wins(moved),
        }

    inpo = value_and_slope(make_objective("inpo", beta=eta, mixture_weight=share), group)
    in_rewards = [part * eta**2 for part in inpo]
    assert_same(
        in_rewards, value_and_slope(make_objective("rpo_sq", beta=eta, eta=1.0), group, mixture), 2
    )
    sign = torch.where(group.rewards[:, 0] > group.rewards[:, 1], 1.0, -1.0).double()

    def gap(logps):
        return sign * (logps[:, 0] - logps[:, 1])

    bracket = gap(group.policy_logps) - share * gap(group.ref_logps)
    bracket = bracket - (1 - share) * gap(group.prev_logps) - 1 / (2 * eta)
    torch.testing.assert_close(inpo[0], bracket**2, **EXACT)


def test_bco_is_its_pair_form_against_a_raised_reference():
    """δ in the score is δ/β in the log-ratio."""
    group = random_group(13, 10, 2, scale=10)
    raised = value_and_slope(
        make_objective("bco_pair", beta=0.3),
        group,
        lambda moved: {"ref_logps": moved.ref_logps + 1.4 / 0.3},
    )
    state = {"delta": 1.4, "seen": 100.0}
    assert_same(value_and_slope(make_objective("bco", beta=0.3), group, state=state), raised)


@settings(deadline=None, max_examples=60)
@given(won=st.floats(-60, 60), lost=st.floats(-60, 60), delta=st.floats(-40, 40))
def test_bco_lies_above_dpo_whatever_its_running_mean(won, lost, delta):
    """σ(a-δ)·σ(δ-b) ≤ σ(a-b): the gap is log(1 + (e^{δ-a} + e^{b-δ})/(1 + e^{b-a}))."""
    group = pair(won, lost)
    dpo = make_objective("dpo", beta=1.0)(group).loss.item()
    state = {"delta": delta, "seen": 2.0}
    bco = make_objective("bco", beta=1.0)(group, state).loss.item()
    ahead = np.logaddexp(delta - won, lost - delta) - np.logaddexp(0, lost - won)
    assert bco - dpo == pytest.approx(-log_expit(-ahead), rel=1e-9, abs=1e-12)
    assert bco >= dpo * (1 - 1e-14)


def test_a_label_per_pair_is_cdpo_with_a_smoothing_per_pair():
    """mcts_dpo at P(w beats l) = p is cDPO at ε = 1 - p, prompt by prompt; never under ½."""
    group = random_group(3, 4, 2)
    order = group.rewards[:, 0] > group.rewards[:, 1]
    wins = torch.tensor([0.6, 0.99, 0.75, 0.2]).double()
    ahead = torch.where(order, wins, 1 - wins)
    half = torch.full_like(ahead, 0.5)
    table = torch.stack([torch.stack([half, ahead], 1), torch.stack([1 - ahead, half], 1)], 1)
    found = make_objective("mcts_dpo")(change(group, win_probs=table)).per_prompt
    margin = 0.1 * (group.policy_logps - group.ref_logps)
    gap = torch.where(order, margin[:, 0] - margin[:, 1], margin[:, 1] - margin[:, 0]).numpy()
    label = np.maximum(wins.numpy(), 0.5)
    expected = -label * log_expit(gap) - (1 - label) * log_expit(-gap)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    for place, epsilon in enumerate(1 - label[:3]):
        alone = make_objective("cdpo", epsilon=float(epsilon), beta=0.1)(group).per_prompt[place]
        assert float(alone) == pytest.approx(float(found[place]), rel=1e-9)


def test_exploration_adds_the_log_prob_of_the_reference_sample():
    group = random_group(5, 4, 3)
    explored = make_objective("xpo", aux={"logp_sample": 0.25})(group).per_prompt
    plain = make_objective("dpo", beta=0.1)(group).per_prompt
    torch.testing.assert_close(explored - plain, 0.25 * group.sample_logps, **EXACT)
