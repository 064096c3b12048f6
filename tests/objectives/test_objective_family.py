"""Each further level: its published formula by another route, and its place in the family."""

import itertools

import numpy as np
import pytest
import torch
from objective_groups import change, pair, random_group, values_and_gradient
from scipy.special import entr, expit, log_expit, log_softmax, softmax

from ablate.objectives import PromptGroup, make_objective

EXACT = {"rtol": 1e-11, "atol": 1e-12}


def values(name, group, **overrides):
    return make_objective(name, **overrides)(group).per_prompt


class Sides:
    """NumPy columns of a group of pairs, winner and loser apart."""

    def __init__(self, group: PromptGroup) -> None:
        order = group.rewards.argsort(dim=1, descending=True)

        def split(tensor):
            ordered = tensor.gather(1, order).double().numpy()
            return ordered[:, 0], ordered[:, 1]

        self.s_w, self.s_l = split(group.policy_logps)
        ref_w, ref_l = split(group.ref_logps)
        self.h_w, self.h_l = self.s_w - ref_w, self.s_l - ref_l
        self.ref_gap = ref_w - ref_l
        self.n_w, self.n_l = split(group.lengths)
        self.r_w, self.r_l = split(group.rewards)
        self.e_w, self.e_l = split(group.extra_rewards[..., 0])

    @property
    def gap(self):
        return self.h_w - self.h_l


def log_odds(mean):
    return mean - np.log1p(-np.exp(mean))


def discopop(margin, tau=0.05):
    gate = expit(margin / tau)
    return -log_expit(margin) * (1 - gate) + np.exp(-margin) * gate


#: level → its formula at β = 0.3, with the defaults of its level file
FORMULAS = {
    "cdpo": lambda p: -0.8 * log_expit(0.3 * p.gap) - 0.2 * log_expit(-0.3 * p.gap),
    "rdpo": lambda p: (-0.9 * log_expit(0.3 * p.gap) + 0.1 * log_expit(-0.3 * p.gap)) / 0.8,
    "hinge": lambda p: np.maximum(0, 1 - 0.3 * p.gap),
    "hybrid_dpo": lambda p: -log_expit(0.3 * (p.s_w - p.s_l) - 0.3 * np.maximum(0, p.ref_gap)),
    "ln_dpo": lambda p: -log_expit(0.3 * (p.h_w / p.n_w - p.h_l / p.n_l)),
    "dpo_pl": lambda p: -log_expit(0.3 * p.gap),
    "exo": lambda p: (
        expit(0.3 * p.gap) * (log_expit(0.3 * p.gap) - np.log1p(-1e-3))
        + expit(-0.3 * p.gap) * (log_expit(-0.3 * p.gap) - np.log(1e-3))
    ),
    "nca": lambda p: (
        -log_expit(0.3 * p.h_w) - 0.5 * log_expit(-0.3 * p.h_w) - 0.5 * log_expit(-0.3 * p.h_l)
    ),
    "bco_pair": lambda p: -log_expit(0.3 * p.h_w) - log_expit(-0.3 * p.h_l),
    "sppo_hard": lambda p: (p.h_w - 0.5 / 0.3) ** 2 + (p.h_l + 0.5 / 0.3) ** 2,
    "apo_zero": lambda p: 1 - expit(0.3 * p.h_w) + expit(0.3 * p.h_l),
    "apo_down": lambda p: expit(0.3 * p.h_w) + 1 - expit(0.3 * p.gap),
    "modpo": lambda p: -log_expit((0.3 * p.gap - 0.5 * (p.e_w - p.e_l)) / 0.5),
    "odpo": lambda p: -log_expit(0.3 * p.gap - np.log(p.r_w - p.r_l)),
    "r_dpo": lambda p: -log_expit(0.3 * p.gap + 0.05 * (p.n_w - p.n_l)),
    "liu_rpo": lambda p: -log_expit(0.3 * p.gap) - 0.005 * p.s_w,
    "iterative_rpo": lambda p: -log_expit(0.3 * p.gap) - p.s_w / p.n_w,
    "cpo": lambda p: -log_expit(0.3 * (p.s_w - p.s_l)) - p.s_w / p.n_w,
    "orpo": lambda p: (
        -p.s_w / p.n_w - 0.1 * log_expit(0.3 * (log_odds(p.s_w / p.n_w) - log_odds(p.s_l / p.n_l)))
    ),
    "discopop": lambda p: discopop(0.3 * p.gap),
    "f_dpo_forward_kl": lambda p: -log_expit(0.3 * (np.exp(-p.h_l) - np.exp(-p.h_w))),
    "f_dpo_js": lambda p: -log_expit(0.3 * (log_expit(p.h_w) - log_expit(p.h_l))),
    "f_dpo_alpha": lambda p: -log_expit(0.3 * (np.exp(-0.5 * p.h_w) - np.exp(-0.5 * p.h_l)) / -0.5),
    "alphapo": lambda p: (
        -log_expit(
            0.3 * (np.exp(-0.25 * p.s_l / p.n_l) - np.exp(-0.25 * p.s_w / p.n_w)) / 0.25 - 0.1
        )
    ),
    "rebel": lambda p: (0.3 * p.gap - (p.r_w - p.r_l)) ** 2,
    "distill_dpo": lambda p: (0.3 * p.gap - (p.r_w - p.r_l)) ** 2,
    "dr_dpo": lambda p: -log_expit(0.3 * p.gap),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("seed", [0, 1])
def test_published_formula_on_pairs(name, seed):
    group = random_group(seed, 12, 2, scale=4, longest=20)
    group = change(group, policy_logps=-group.policy_logps.abs())  # a probability below one
    got = values(name, group, beta=0.3)
    np.testing.assert_allclose(got.numpy(), FORMULAS[name](Sides(group)), rtol=1e-11, atol=1e-12)


def test_conservative_dpo_is_a_kl_plus_the_entropy_of_the_label():
    group = random_group(2, 10, 2, scale=4)
    kl = values("cdpo", group, subtract_entropy=True)
    entropy = entr(0.2) + entr(0.8)
    torch.testing.assert_close(values("cdpo", group), kl + entropy, **EXACT)
    at_target = pair(np.log(0.8 / 0.2) / 0.1)
    assert abs(values("cdpo", at_target, subtract_entropy=True).item()) < 1e-15


def test_a_label_of_one_is_dpo_whatever_it_is_called():
    group = random_group(3, 10, 2, scale=4)
    for name in ("cdpo", "rdpo"):
        torch.testing.assert_close(values(name, group, epsilon=0.0), values("dpo", group), **EXACT)


def test_robust_dpo_is_unbiased_under_flips_and_unbounded_below():
    """(1-ε)·L(w,l) + ε·L(l,w) = L_DPO(w,l); and L = L_DPO - ε/(1-2ε)·βΔh."""
    group = random_group(4, 10, 2, scale=4)
    flipped = change(group, rewards=-group.rewards)
    robust, other = values("rdpo", group), values("rdpo", flipped)
    torch.testing.assert_close(0.9 * robust + 0.1 * other, values("dpo", group), **EXACT)
    gap = torch.from_numpy(Sides(group).gap)
    torch.testing.assert_close(robust, values("dpo", group) - 0.1 / 0.8 * 0.1 * gap, **EXACT)
    assert values("rdpo", pair(1e5)).item() < -1000


def test_exo_is_the_forward_kl_to_a_smoothed_label():
    group = random_group(5, 10, 2, scale=4)
    gap = float(np.log(0.999 / 0.001))
    rewards = gap * (group.rewards == group.rewards.amax(1, keepdim=True)).double()
    forward = make_objective("rpo_fwd", beta=0.1, eta=1.0)
    torch.testing.assert_close(
        values("exo", group), forward(change(group, rewards=rewards)).per_prompt, **EXACT
    )


def test_plackett_luce_is_a_sum_of_categorical_terms_on_suffixes():
    group = random_group(6, 6, 5, ragged=True, scale=4)
    got = values("dpo_pl", group, beta=0.4).numpy()
    scores = 0.4 * (group.policy_logps - group.ref_logps).numpy()
    for row in range(6):
        keep = group.present[row].numpy()
        ranked = scores[row, keep][np.argsort(-group.rewards[row].numpy()[keep])]
        expected = sum(-log_softmax(ranked[k:])[0] for k in range(len(ranked)))
        assert got[row] == pytest.approx(expected if len(ranked) > 1 else 0.0, rel=1e-11)


def test_plackett_luce_is_the_probability_of_the_ranking():
    group = random_group(7, 1, 4, scale=2)
    total = 0.0
    for order in itertools.permutations(range(4)):
        ranks = torch.tensor([order], dtype=torch.float64)
        total += torch.exp(-values("dpo_pl", change(group, rewards=ranks))).item()
    assert total == pytest.approx(1.0, rel=1e-12)


def test_equals_do_not_compete_in_a_ranking():
    group = random_group(8, 1, 3, scale=3)
    group.rewards = torch.tensor([[2.0, 2.0, 1.0]], dtype=torch.float64)
    a = 0.1 * (group.policy_logps - group.ref_logps)[0].numpy()
    expected = -log_expit(a[0] - a[2]) - log_expit(a[1] - a[2])
    output = make_objective("dpo_pl")(group)
    assert output.loss.item() == pytest.approx(expected, rel=1e-12)
    assert output.metrics["ties"] == 1


def test_length_desensitised_dpo_between_truncation_and_dpo():
    group = random_group(9, 8, 3, longest=15, scale=3)
    torch.testing.assert_close(values("ld_dpo", group, ld_alpha=1.0), values("dpo", group), **EXACT)
    ratio = (group.token_logps - group.token_ref_logps).numpy()
    shortest = group.lengths.numpy().min(axis=1)
    scores = np.array(
        [
            [
                ratio[b, k, : shortest[b]].sum() + 0.3 * ratio[b, k, shortest[b] :].sum()
                for k in range(3)
            ]
            for b in range(8)
        ]
    )
    moved = change(group, policy_logps=group.ref_logps + torch.from_numpy(scores))
    torch.testing.assert_close(values("ld_dpo", group, ld_alpha=0.3), values("dpo", moved), **EXACT)
    poisoned = group.token_logps.masked_fill(
        torch.arange(15) >= group.lengths[..., None], float("nan")
    )
    tail = change(group, token_logps=poisoned)
    assert torch.equal(values("ld_dpo", tail), values("ld_dpo", group))


def test_length_regularisation_is_modpo_with_minus_length_as_further_reward():
    group = random_group(10, 12, 2, longest=30, scale=3)
    penalty = change(group, extra_rewards=-group.lengths[..., None].double())
    torch.testing.assert_close(
        values("modpo", penalty, beta=0.3 * 0.8, extra_weights=[0.2]),
        values("r_dpo", group, beta=0.3, length_weight=0.2 / 0.8),
        **EXACT,
    )


def test_length_regularisation_asks_more_of_long_winners():
    """At equal log-ratios the optimal policy is pulled towards the shorter response."""
    group = pair(0.0)
    longer = change(group, lengths=torch.tensor([[40, 10]]))
    shorter = change(group, lengths=torch.tensor([[10, 40]]))
    assert values("r_dpo", shorter) > values("dpo", group) > values("r_dpo", longer)


def test_modpo_with_several_rewards_and_none():
    group = random_group(11, 8, 2, extra=2)
    mixed = change(
        group,
        extra_rewards=group.extra_rewards @ torch.tensor([[0.25], [0.75]], dtype=torch.float64),
    )
    torch.testing.assert_close(
        values("modpo", group, extra_weights=[0.1, 0.3]),
        values("modpo", mixed, extra_weights=[0.4]),
        **EXACT,
    )
    torch.testing.assert_close(
        values("modpo", mixed, extra_weights=[0.0]), values("dpo", group), **EXACT
    )


def test_k_way_noise_contrast_recomputed():
    group = random_group(12, 6, 5, ragged=True, scale=4)
    objective = make_objective("nca", beta=0.3)
    output = objective(group)
    a = 0.3 * (group.policy_logps - group.ref_logps).numpy()
    for row in torch.nonzero(output.usable)[:, 0].tolist():
        keep = group.present[row].numpy()
        best = np.argmax(np.where(keep, group.rewards[row].numpy(), -np.inf))
        expected = -log_expit(a[row, best]) - log_expit(-a[row, keep]).mean()
        assert output.per_prompt[row].item() == pytest.approx(expected, rel=1e-11)
    soft = make_objective("nca", beta=0.3, target="rewards", eta=2.0, ties="keep")(group)
    for row in torch.nonzero(soft.usable)[:, 0].tolist():
        keep = group.present[row].numpy()
        q = softmax(2.0 * group.rewards[row].numpy()[keep])
        expected = -(q * log_expit(a[row, keep])).sum() - log_expit(-a[row, keep]).mean()
        assert soft.per_prompt[row].item() == pytest.approx(expected, rel=1e-11)


def test_infonca_is_rpo_bwd_plus_the_entropy_of_its_target():
    group = random_group(13, 6, 4, scale=4)
    q = softmax(1.5 * group.rewards.numpy(), axis=1)
    contrast = make_objective("infonca", beta=0.2, eta=1.5)
    kl = make_objective("rpo_bwd", beta=0.2, eta=1.5)
    first, first_gradient = values_and_gradient(contrast, group)
    second, second_gradient = values_and_gradient(kl, group)
    torch.testing.assert_close(first, second + torch.from_numpy(entr(q).sum(axis=1)), **EXACT)
    torch.testing.assert_close(first_gradient, second_gradient, **EXACT)
    assert contrast(group).metrics["target_entropy"] == pytest.approx(entr(q).sum(axis=1).mean())


def test_a_hard_categorical_target_of_two_is_dpo_and_shares_ties():
    group = random_group(14, 6, 2, scale=4)
    hard = {"target": "hard", "eta": None, "ties": "half", "beta": 0.1}
    torch.testing.assert_close(values("infonca", group, **hard), values("dpo", group), **EXACT)
    tied = change(group, rewards=torch.ones(6, 2))
    torch.testing.assert_close(
        values("infonca", tied, **hard), values("dpo", tied, ties="half"), **EXACT
    )


def test_gvpo_is_the_average_of_all_squared_pairs():
    """Σ_k centred² = (1/K) Σ_{i<j} diff²."""
    group = random_group(15, 6, 5, scale=3)
    pairs = values("rpo_sq", group, beta=0.1, pairing="all_pairs")
    torch.testing.assert_close(values("gvpo", group), pairs * 10 / 5, **EXACT)


def test_sqloo_is_gvpo_times_a_factor_of_k():
    group = random_group(16, 6, 4, scale=3)
    torch.testing.assert_close(
        values("rpo_sqloo", group, beta=0.1), (4 / 3) ** 2 * values("gvpo", group), **EXACT
    )


def test_sppo_hard_is_a_pointwise_square_in_reward_units():
    """(h - (P-½)/β)² = (1/β²)(βh - (P-½))²."""
    group = random_group(17, 6, 2, scale=3)
    reward_units = values("sppo_hard", group, beta=0.2, units="reward")
    torch.testing.assert_close(values("sppo_hard", group, beta=0.2), reward_units / 0.2**2, **EXACT)


def test_bco_bounds_dpo_from_above():
    group = random_group(18, 200, 2, scale=30)
    assert (values("bco_pair", group, beta=0.1) >= values("dpo", group, beta=0.1)).all()


def test_squares_without_the_half_are_twice_rpo_sq():
    group = random_group(19, 6, 2, scale=3)
    for name in ("rebel", "distill_dpo"):
        torch.testing.assert_close(
            values(name, group, beta=0.2), 2 * values("rpo_sq", group, beta=0.2), **EXACT
        )


def test_f_divergence_and_alpha_shape_have_their_limits():
    group = random_group(20, 6, 2, scale=2)
    torch.testing.assert_close(
        values("f_dpo_alpha", group, f_alpha=1.0), values("dpo", group), **EXACT
    )
    torch.testing.assert_close(
        values("f_dpo_alpha", group, f_alpha=1 + 1e-5), values("dpo", group), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(
        values("f_dpo_alpha", group, f_alpha=0.0), values("f_dpo_forward_kl", group), **EXACT
    )
    shape = {"beta": 2.0, "gamma": 1.0}
    torch.testing.assert_close(
        values("alphapo", group, shape_alpha=0.0, **shape), values("simpo", group), **EXACT
    )
    torch.testing.assert_close(
        values("alphapo", group, shape_alpha=1e-5, **shape),
        values("simpo", group),
        rtol=1e-3,
        atol=0,
    )


def test_robust_aggregation_recomputed_and_its_limit():
    group = random_group(21, 9, 2, scale=20)
    dpo = values("dpo", group)
    objective = make_objective("dr_dpo", aggregate_beta=0.7)
    assert objective.batch_coupled
    expected = -0.7 * np.log(np.mean(np.exp(-dpo.numpy() / 0.7)))
    assert objective(group).loss.item() == pytest.approx(expected, rel=1e-12)
    assert objective(group).loss < dpo.mean()
    flat = make_objective("dr_dpo", aggregate_beta=1e7)(group)
    assert flat.loss.item() == pytest.approx(dpo.mean().item(), rel=1e-6)


def test_auxiliary_likelihood_belongs_to_the_best_response():
    group = random_group(22, 5, 4)
    plain, gradient = values_and_gradient(make_objective("dpo", beta=0.01), group)
    total, moved = values_and_gradient(make_objective("liu_rpo"), group)
    best = group.rewards.argmax(dim=1, keepdim=True)
    torch.testing.assert_close(
        total - plain, -0.005 * group.policy_logps.gather(1, best)[:, 0], **EXACT
    )
    expected = torch.zeros_like(moved).scatter(1, best, -0.005 / 5)
    torch.testing.assert_close(moved - gradient, expected, **EXACT)


def test_optimal_transport_sorts_over_the_batch():
    group = random_group(23, 9, 2, scale=5)
    group.rewards[4] = 1.0  # a tie, left out
    keep = [row for row in range(9) if row != 4]
    sides = Sides(group.rows(torch.tensor(keep)))
    ref_gap = (sides.s_w - sides.h_w) - (sides.s_l - sides.h_l)
    paired = np.sort(sides.s_w - sides.s_l) - np.sort(ref_gap)
    unpaired = np.sort(sides.h_w) - np.sort(sides.h_l)
    for name, margin in {"aot": paired, "aot_unpaired": unpaired}.items():
        output = make_objective(name, beta=0.3)(group)
        assert output.loss.item() == pytest.approx(-log_expit(0.3 * margin).mean(), rel=1e-12)
        assert output.metrics["usable"] == 8
    single = group.rows(slice(0, 1))
    torch.testing.assert_close(values("aot", single), values("dpo", single), **EXACT)
