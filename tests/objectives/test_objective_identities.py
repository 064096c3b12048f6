"""Closed forms and identities between objectives, in float64 (RPO is arXiv 2502.00203)."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from objective_groups import change, pair, random_group, values_and_gradient
from scipy.special import expit, log_expit, log_softmax, softmax

from ablate.objectives import make_objective, response_scales

MARGINS = [-30.0, -2.5, -0.3, 0.0, 0.4, 1.7, 25.0]
EXACT = {"rtol": 1e-12, "atol": 1e-13}


def numpy_scores(group, beta):
    """β·log-ratios, rewards and mask, as NumPy arrays."""
    return (
        beta * (group.policy_logps - group.ref_logps).numpy(),
        group.rewards.numpy(),
        group.present.numpy(),
    )


def per_prompt(name, group, **overrides):
    return make_objective(name, **overrides)(group).per_prompt


@pytest.mark.parametrize("margin", MARGINS)
def test_closed_forms_of_the_pair(margin):
    """Each level at β=0.5 with h_w = margin, h_l = -0.2, r_w - r_l = 1, lengths 1."""
    group = pair(margin, -0.2)
    beta, eta, gap = 0.5, 1.5, margin + 0.2
    a, b = beta * gap, eta
    p, q = expit(b), expit(a)
    expected = {
        "dpo": -log_expit(a),
        "ipo": (gap - 1 / (2 * beta)) ** 2,
        "simpo": -log_expit(beta * ((margin - 1) - (-0.2 - 2)) - 0.5 * beta),
        "rpo_bwd": p * (log_expit(b) - log_expit(a)) + (1 - p) * (log_expit(-b) - log_expit(-a)),
        "rpo_fwd": q * (log_expit(a) - log_expit(b)) + (1 - q) * (log_expit(-a) - log_expit(-b)),
        "rpo_sq": 0.5 * (a - b) ** 2,
        "rpo_sqloo": (a - b) ** 2,
    }
    for name, value in expected.items():
        scale = {"eta": eta} if name.startswith("rpo") else {}
        got = per_prompt(name, group, beta=beta, **scale)
        assert got.item() == pytest.approx(value, rel=1e-12, abs=1e-13), name


def test_dpo_is_rpo_bwd_with_an_infinite_target():
    group = random_group(0, 6, 2, scale=5)
    group.rewards = torch.where(group.order() == group.order().amax(1, keepdim=True), 1e3, 0.0)
    hard = make_objective("rpo_bwd", beta=0.3, eta=1.0)
    values, gradient = values_and_gradient(hard, group)
    dpo_values, dpo_gradient = values_and_gradient(make_objective("dpo", beta=0.3), group)
    torch.testing.assert_close(values, dpo_values, **EXACT)
    torch.testing.assert_close(gradient, dpo_gradient, **EXACT)


@pytest.mark.parametrize("level", ["rpo_bwd", "rpo_fwd"])
def test_categorical_kl_of_two_is_the_bernoulli_kl(level):
    group = random_group(1, 20, 2, scale=4)
    distance = {
        "rpo_bwd": {"distance": "ce", "subtract_entropy": True},
        "rpo_fwd": {"distance": "fwd"},
    }
    bernoulli = make_objective("rpo_sq", beta=0.7, eta=2.0, coefficient=1.0, **distance[level])
    values, gradient = values_and_gradient(make_objective(level, beta=0.7, eta=2.0), group)
    other, other_gradient = values_and_gradient(bernoulli, group)
    torch.testing.assert_close(values, other, **EXACT)
    torch.testing.assert_close(gradient, other_gradient, **EXACT)


@pytest.mark.parametrize("ragged", [False, True])
def test_k_way_forms_recomputed_prompt_by_prompt(ragged):
    group = random_group(2, 8, 6, ragged=ragged, scale=4)
    beta, eta = 0.6, 1.3
    scores, rewards, present = numpy_scores(group, beta)
    for row in range(8):
        keep = present[row]
        if keep.sum() < 2:
            continue
        a, b = scores[row, keep], eta * rewards[row, keep]
        count = len(a)
        loo = [
            (a[k] - np.delete(a, k).mean()) - (b[k] - np.delete(b, k).mean()) for k in range(count)
        ]
        expected = {
            "rpo_bwd": (softmax(b) * (log_softmax(b) - log_softmax(a))).sum(),
            "rpo_fwd": (softmax(a) * (log_softmax(a) - log_softmax(b))).sum(),
            "rpo_sqloo": 0.5 * np.square(loo).sum(),
        }
        for name, value in expected.items():
            got = per_prompt(name, group, beta=beta, eta=eta)[row].item()
            assert got == pytest.approx(value, rel=1e-11, abs=1e-13), name


def test_sqloo_of_two_is_twice_sq():
    group = random_group(3, 20, 2)
    torch.testing.assert_close(
        per_prompt("rpo_sqloo", group, beta=0.4), 2 * per_prompt("rpo_sq", group, beta=0.4), **EXACT
    )


def test_sqloo_is_all_pairs_of_sq():
    """½ Σ(loo)² = ½ (K/(K-1))² (1/K) Σ_{i<j} diff² = (K/(K-1)) · mean over pairs of ½ diff²."""
    group = random_group(4, 10, 5)
    pairs = per_prompt("rpo_sq", group, beta=0.4, pairing="all_pairs")
    factor = (5 / 4) ** 2 / 5 * 10
    torch.testing.assert_close(per_prompt("rpo_sqloo", group, beta=0.4), factor * pairs, **EXACT)


def test_sqloo_scaling_eta_is_dividing_beta():
    group = random_group(5, 10, 4)
    eta = 3.0
    torch.testing.assert_close(
        per_prompt("rpo_sqloo", group, beta=0.4, eta=eta),
        eta**2 * per_prompt("rpo_sqloo", group, beta=0.4 / eta, eta=1.0),
        **EXACT,
    )


def test_gradient_scales_of_the_paper():
    """∂D_bwd/∂a_k = q^a_k - q^b_k and ∂D_sqloo/∂a_k = K/(K-1)(â_k - b̂_k)."""
    group = random_group(6, 5, 4, scale=3)
    beta, eta = 0.5, 1.2
    scores, rewards, _ = numpy_scores(group, beta)
    a, b = scores, eta * rewards
    bwd = beta * (softmax(a, axis=1) - softmax(b, axis=1))
    loo = (a - a.mean(1, keepdims=True)) * 4 / 3 - (b - b.mean(1, keepdims=True)) * 4 / 3
    for name, scale in {"rpo_bwd": bwd, "rpo_sqloo": beta * 4 / 3 * loo}.items():
        got = response_scales(make_objective(name, beta=beta, eta=eta), group)
        np.testing.assert_allclose(5 * got.numpy(), scale, rtol=1e-11, atol=1e-13)


def test_sqloo_scale_is_rloo_advantage_with_kl_in_the_reward():
    """At η=1 the scale is -β·K/(K-1) times r̃_k - mean of the other r̃, r̃ = r - β·log-ratio."""
    group = random_group(7, 3, 5)
    beta = 0.2
    scores, rewards, _ = numpy_scores(group, beta)
    shaped = rewards - scores
    advantage = np.stack(
        [shaped[:, k] - np.delete(shaped, k, axis=1).mean(1) for k in range(5)], axis=1
    )
    got = response_scales(make_objective("rpo_sqloo", beta=beta), group)
    np.testing.assert_allclose(3 * got.numpy(), -beta * 5 / 4 * advantage, rtol=1e-11)


def test_ipo_is_the_squared_distance_to_one_half():
    """D_sq[βΔh || ½] = (β²/2) IPO."""
    group = random_group(8, 20, 2, scale=4)
    squared = make_objective("ipo", beta=0.3, units="reward", coefficient=0.5)
    torch.testing.assert_close(
        squared(group).per_prompt, 0.3**2 / 2 * per_prompt("ipo", group, beta=0.3), **EXACT
    )


def test_ipo_per_token_is_the_sum_on_log_ratios_divided_by_length():
    group = random_group(9, 6, 2)
    mean = make_objective("ipo", score="mean", log_z="ignored")
    divided = change(
        group,
        policy_logps=group.policy_logps / group.lengths,
        ref_logps=group.ref_logps / group.lengths,
    )
    torch.testing.assert_close(mean(group).per_prompt, per_prompt("ipo", divided), **EXACT)


def test_simpo_margin_is_a_shifted_hard_target_and_gamma_has_two_spellings():
    group = random_group(10, 6, 2)
    ratio = per_prompt("simpo", group, beta=2.0, gamma_beta_ratio=0.4)
    gamma = per_prompt("simpo", group, beta=2.0, gamma_beta_ratio=None, gamma=0.8)
    torch.testing.assert_close(ratio, gamma, **EXACT)
    mean = (group.policy_logps / group.lengths).numpy()
    order = np.argsort(-group.rewards.numpy(), axis=1)
    won = np.take_along_axis(mean, order[:, :1], 1) - np.take_along_axis(mean, order[:, 1:], 1)
    np.testing.assert_allclose(ratio.numpy(), -log_expit(2.0 * won[:, 0] - 0.8), rtol=1e-12)


def test_rpo_is_zero_at_its_known_optimum():
    """Zero loss and zero gradient at π ∝ π_ref·exp(ηr/β)."""
    group = random_group(11, 4, 5, ragged=True)
    beta, eta = 0.3, 0.9
    optimal = change(group, policy_logps=group.ref_logps + eta * group.rewards / beta - 4.0)
    for name in ("rpo_bwd", "rpo_fwd", "rpo_sq", "rpo_sqloo"):
        values, gradient = values_and_gradient(make_objective(name, beta=beta, eta=eta), optimal)
        assert values.abs().max() < 1e-12, name
        assert gradient.abs().max() < 1e-12, name


def test_kto_recomputed_with_mismatched_pairs():
    """Mean over responses of λ_D(1 - σ(β(h - z))) and λ_U(1 - σ(β(z - h))), as TRL computes it."""
    beta, up, down = 0.4, 1.3, 0.7
    for offset, positive in ((4.0, True), (-4.0, False)):
        group = random_group(12, 5, 2, scale=2)
        group.kl_logps = group.kl_ref_logps + offset + torch.arange(10.0).view(5, 2) / 10
        kl = max(0.0, (group.kl_logps - group.kl_ref_logps).mean().item())
        assert (kl > 0) == positive
        h = (group.policy_logps - group.ref_logps).numpy()
        good = group.rewards.numpy() == group.rewards.numpy().max(1, keepdims=True)
        losses = np.where(
            good, up * (1 - expit(beta * (h - kl))), down * (1 - expit(beta * (kl - h)))
        )
        output = make_objective("kto", beta=beta, desirable_weight=up, undesirable_weight=down)(
            group
        )
        assert output.loss.item() == pytest.approx(losses.mean(), rel=1e-12)
        assert output.metrics["z0"] == pytest.approx(beta * kl)
        assert output.metrics["z0_mismatched"] == 1


def test_kto_baseline_reads_only_present_mismatched_pairs():
    group = random_group(13, 3, 2)
    group.kl_logps = group.kl_ref_logps + torch.tensor([[1.0, 50.0], [3.0, float("nan")], [5.0, 0]])
    group.kl_mask = torch.tensor([[True, False], [True, False], [True, False]])
    output = make_objective("kto", beta=0.5)(group)
    assert output.metrics["z0"] == pytest.approx(0.5 * 3.0)
    assert torch.isfinite(output.per_prompt).all()


def test_kto_without_mismatched_pairs_measures_from_the_opposite_class():
    group = random_group(14, 5, 2, scale=3)
    group.kl_logps = group.kl_ref_logps = None
    group.policy_logps = (
        group.policy_logps + 8 + group.rewards
    )  # else both means are cut off at zero
    h = (group.policy_logps - group.ref_logps).numpy()
    best = group.rewards.numpy().argmax(1)
    won, lost = h[range(5), best], h[range(5), 1 - best]
    assert won.mean() > 0
    assert lost.mean() > 0
    assert abs(won.mean() - lost.mean()) > 0.5
    beta = 0.4
    expected = 0.5 * (
        1
        - expit(beta * (won - max(0, lost.mean())))
        + 1
        - expit(beta * (max(0, won.mean()) - lost))
    )
    output = make_objective("kto", beta=beta)(group)
    np.testing.assert_allclose(output.per_prompt.numpy(), expected, rtol=1e-12)
    assert output.metrics["z0_mismatched"] == 0


def test_kto_baseline_carries_no_gradient():
    group = random_group(15, 4, 2)
    group.kl_logps = (group.kl_ref_logps + 3).requires_grad_(True)
    group.policy_logps = group.policy_logps.requires_grad_(True)
    make_objective("kto")(group).loss.backward()
    assert group.kl_logps.grad is None
    assert group.policy_logps.grad is not None


def test_adjacent_and_all_pairs_average_over_pairs():
    group = random_group(16, 3, 4, scale=3)
    scores, rewards, _ = numpy_scores(group, 0.1)
    for pairing in ("adjacent", "all_pairs"):
        got = per_prompt("dpo", group, beta=0.1, pairing=pairing).numpy()
        for row in range(3):
            ranked = scores[row][np.argsort(-rewards[row])]
            pairs = (
                list(pairwise(ranked))
                if pairing == "adjacent"
                else [(ranked[i], ranked[j]) for i in range(4) for j in range(i + 1, 4)]
            )
            expected = np.mean([-log_expit(up - down) for up, down in pairs])
            assert got[row] == pytest.approx(expected, rel=1e-12)


def test_ranking_accuracy_threshold_of_the_dpo_loss():
    """π ranks a pair rightly exactly where L_DPO ≤ -log σ(β(log π_ref(l) - log π_ref(w)))."""
    group = random_group(17, 200, 2, scale=3)
    order = group.rewards.argsort(dim=1, descending=True)
    policy, ref = group.policy_logps.gather(1, order), group.ref_logps.gather(1, order)
    right = policy[:, 0] >= policy[:, 1]
    threshold = -log_expit(0.1 * (ref[:, 1] - ref[:, 0]).numpy())
    loss = per_prompt("dpo", group, beta=0.1)
    assert torch.equal(loss <= torch.from_numpy(threshold), right)
    assert 0 < right.sum() < 200


def test_dpo_loss_at_the_reference_is_log_two():
    assert per_prompt("dpo", pair(0.0)).item() == pytest.approx(math.log(2), rel=1e-15)
