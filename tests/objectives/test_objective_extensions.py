"""Levels with rewards, states, tokens or further responses of their own, by another route."""

import numpy as np
import pytest
import torch
from objective_groups import change, random_group, values_and_gradient
from scipy.special import expit, log_expit, logit, logsumexp

from ablate.errors import DataError
from ablate.objectives import ObjectiveState, make_objective, response_scales

EXACT = {"rtol": 1e-11, "atol": 1e-12}


def values(name, group, **overrides):
    return make_objective(name, **overrides)(group).per_prompt


def arrays(group):
    """Log-ratios, mean log-probs, rewards, lengths and win rates, each float[B, K]."""
    h = (group.policy_logps - group.ref_logps).numpy()
    mean = (group.policy_logps / group.lengths).numpy()
    return h, mean, group.rewards.numpy(), group.lengths.numpy(), group.win_probs.numpy()


def test_a_mixture_is_the_weighted_sum_of_its_parts():
    group = random_group(0, 9, 4, ragged=True, ties=True, scale=4)
    mixture = make_objective("mpo")
    output = mixture(group)
    shared = change(group, mask=group.mask & output.usable[:, None])
    parts = [(0.8, "dpo"), (0.2, "bco_pair"), (1.0, "sft")]
    total = sum(weight * make_objective(name)(shared).loss for weight, name in parts)
    torch.testing.assert_close(output.loss, total, **EXACT)
    assert mixture.batch_coupled  # likelihood per token of the batch is
    assert mixture.log_z == "ignored"
    assert mixture.needs.lengths
    assert output.metrics["sft/loss"] == pytest.approx(make_objective("sft")(shared).loss.item())


def test_a_mixture_with_itself_and_with_a_state():
    group = random_group(1, 6, 3, scale=3)
    dpo, bco = make_objective("dpo").config, make_objective("bco").config
    both = make_objective(
        "dpo",
        mix={"again": dpo.model_dump(), "bco": bco.model_dump()},
        mix_weights={"again": 0.5, "bco": 2.0},
    )
    expected = 1.5 * make_objective("dpo")(group).loss + 2.0 * make_objective("bco")(group).loss
    torch.testing.assert_close(both(group).loss, expected, **EXACT)
    assert set(both.initial_state()) == {"bco/delta", "bco/seen"}


def test_bco_shifts_by_the_mean_of_all_scores_seen():
    first, second = random_group(2, 5, 2, scale=4), random_group(3, 3, 2, scale=4)
    objective = make_objective("bco", beta=0.3)
    memory = ObjectiveState(objective)
    memory.update(first)
    state = memory.update(second)
    scores = [0.3 * (g.policy_logps - g.ref_logps).numpy() for g in (first, second)]
    delta = np.concatenate([s.ravel() for s in scores]).mean()
    assert state == pytest.approx({"delta": delta, "seen": 16})
    order = second.rewards.numpy().argsort(axis=1)[:, ::-1]
    a = np.take_along_axis(scores[1], order, 1)
    expected = -log_expit(a[:, 0] - delta) - log_expit(delta - a[:, 1])
    np.testing.assert_allclose(objective(second, state).per_prompt.numpy(), expected, rtol=1e-12)


def test_dynamic_beta_follows_the_gap_and_drops_the_farthest():
    first, second = random_group(4, 10, 2, scale=4), random_group(5, 10, 2, scale=4)
    objective = make_objective("beta_dpo")
    memory = ObjectiveState(objective)
    mean = 0.0
    for group in (first, second):
        state = memory.update(group)
        h, _, r, _, _ = arrays(group)
        gaps = np.where(r[:, 0] > r[:, 1], 1, -1) * (h[:, 0] - h[:, 1])
        mean = 0.9 * mean + 0.1 * gaps.mean()
    kept = np.argsort(np.abs(gaps - mean))[:8]
    beta = max(0.1 * (1 + 0.6 * (gaps[kept].mean() - mean)), 1e-3)
    output = objective(second, state)
    assert set(torch.nonzero(output.usable)[:, 0].tolist()) == set(kept)
    assert output.loss.item() == pytest.approx(-log_expit(beta * gaps[kept]).mean(), rel=1e-12)


@pytest.mark.parametrize("name", ["bco", "beta_dpo"])
def test_a_state_survives_a_checkpoint_and_belongs_to_its_objective(name):
    objective = make_objective(name)
    memory, again = ObjectiveState(objective), ObjectiveState(objective)
    memory.update(random_group(6, 8, 3))
    again.load_state_dict(memory.state_dict())
    group = random_group(7, 8, 3)
    assert memory.update(group) == again.update(group)
    with pytest.raises(DataError, match=f"'{name}' remembers"):
        again.load_state_dict({"other": 1.0})
    scales = response_scales(objective, group, memory.values)
    leaf = group.policy_logps.clone().requires_grad_(True)
    objective(change(group, policy_logps=leaf), memory.values).loss.backward()
    torch.testing.assert_close(scales, leaf.grad)


def test_win_rates_are_the_targets_of_self_play():
    group = random_group(8, 5, 4, scale=3)
    h, _, r, _, wins = arrays(group)
    rate = wins.mean(axis=2)
    best, worst, rows = r.argmax(1), r.argmin(1), np.arange(5)
    sppo = 0.5 * sum((h[rows, i] - (rate[rows, i] - 0.5) / 0.2) ** 2 for i in (best, worst))
    gpo = ((h - logit(wins).mean(axis=2) / 0.2) ** 2).mean(axis=1)
    egpo = (h[rows, best] - h[rows, worst] - (rate[rows, best] - rate[rows, worst]) / 0.2) ** 2
    for name, expected in {"sppo": sppo, "gpo": gpo, "egpo": egpo}.items():
        more = {"pairing": "best_vs_worst"} if name == "egpo" else {}
        got = values(name, group, beta=0.2, **more).numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-10, err_msg=name)


def test_sppo_of_certain_wins_is_its_hard_form():
    group = random_group(9, 6, 2, scale=3)
    # with itself counted at one half, a sure winner of two wins three quarters: double the gap
    group.win_probs = 0.5 + 0.5 * torch.sign(group.rewards[:, :, None] - group.rewards[:, None, :])
    soft = values("sppo", group, beta=0.2, eta=2.0, coefficient=1.0)
    torch.testing.assert_close(soft, values("sppo_hard", group, beta=0.2), **EXACT)


def test_inpo_is_ipo_against_a_geometric_mixture():
    group = random_group(10, 6, 2, scale=3)
    mixed = (group.ref_logps + 2 * group.prev_logps) / 3
    torch.testing.assert_close(
        values("inpo", group),
        values("ipo", change(group, ref_logps=mixed), beta=0.0075),
        rtol=1e-12,
        atol=0,
    )


def test_dpop_is_dpo_until_the_better_response_falls():
    group = random_group(11, 12, 2, scale=3)
    h, _, r, _, _ = arrays(group)
    sign = np.where(r[:, 0] > r[:, 1], 1, -1)
    best = np.where(r[:, 0] > r[:, 1], h[:, 0], h[:, 1])
    expected = -log_expit(0.3 * (sign * (h[:, 0] - h[:, 1]) - 50 * np.maximum(0, -best)))
    np.testing.assert_allclose(values("dpop", group).numpy(), expected, rtol=1e-11)
    risen = best > 0
    assert 0 < risen.sum() < 12
    plain = values("dpo", group, beta=0.3).numpy()
    np.testing.assert_allclose(values("dpop", group).numpy()[risen], plain[risen], rtol=1e-12)


def test_lipo_sums_pairs_by_what_swapping_them_costs():
    group = random_group(12, 4, 4, scale=3)
    h, _, r, _, _ = arrays(group)
    for row in range(4):
        rank = 1 + (-h[row]).argsort().argsort()
        expected = sum(
            abs(2 ** r[row, i] - 2 ** r[row, j])
            * abs(1 / np.log(1 + rank[i]) - 1 / np.log(1 + rank[j]))
            * -log_expit(0.05 * (h[row, i] - h[row, j]))
            for i in range(4)
            for j in range(4)
            if r[row, i] > r[row, j]
        )
        assert values("lipo_lambda", group)[row].item() == pytest.approx(expected, rel=1e-10)


def test_wpo_weighs_the_gradient_of_dpo_and_adds_none():
    group = random_group(13, 8, 2, scale=3)
    mean = ((group.policy_logps - group.log_sum_sq) / group.lengths).clamp(max=10)
    weight = mean.exp().prod(dim=1)
    loss, gradient = values_and_gradient(make_objective("wpo"), group)
    plain, dpo_gradient = values_and_gradient(make_objective("dpo"), group)
    torch.testing.assert_close(loss, weight * plain, **EXACT)
    torch.testing.assert_close(gradient, weight[:, None] * dpo_gradient, **EXACT)


def test_pro_recomputed_and_at_a_gap_of_one_a_logistic_loss():
    group = random_group(14, 3, 4)
    _, mean, r, _, _ = arrays(group)
    for row in range(3):
        order = (-r[row]).argsort()
        s, reward = mean[row][order], r[row][order]
        expected = -0.05 * s[0]
        for k in range(3):
            own = s[k] * (reward[k] - reward[-1])
            rivals = [s[i] * (reward[k] - reward[i]) for i in range(k + 1, 4)]
            expected += logsumexp([own, *rivals]) - own
        assert values("pro", group)[row].item() == pytest.approx(expected, rel=1e-10)
    pairs = random_group(15, 4, 2)
    pairs.rewards = torch.tensor([[1.0, 0.0]] * 4).double()
    first = (pairs.policy_logps / pairs.lengths).numpy()[:, 0]
    rival = (pairs.policy_logps / pairs.lengths).numpy()[:, 1]
    np.testing.assert_allclose(
        values("pro", pairs, aux={}).numpy(), -log_expit(first - rival), rtol=1e-11
    )


def test_each_good_response_against_all_bad_ones():
    group = random_group(16, 4, 5)
    group.rewards = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1], [0] * 5])
    group.rewards = group.rewards.double()
    _, mean, r, n, _ = arrays(group)
    output = make_objective("drpo")(group)
    assert output.usable.tolist() == [True, True, False, False]
    for row in range(2):
        good, bad = r[row] == 1, r[row] == 0
        weight = np.exp((1 - n[row] / n[row].max()) / 0.1)[good]
        soft = 10 * (logsumexp(mean[row][bad] / 10) - np.log(bad.sum()))
        expected = -(weight * (mean[row][good] - soft)).sum() / weight.sum()
        assert output.per_prompt[row].item() == pytest.approx(expected, rel=1e-10)


def test_one_against_the_rest_weighed_by_gain_and_place():
    group = random_group(17, 3, 4, scale=3)
    h, _, r, _, _ = arrays(group)
    for row in range(3):
        place = 1 + (-r[row]).argsort().argsort()
        weight = (2 ** (r[row] - r[row].min()) - 1) / np.log2(1 + place)
        terms = [
            weight[i] * -log_expit(np.log(3) - logsumexp(np.delete(h[row], i) - h[row, i]))
            for i in range(4)
        ]
        assert values("irpo_rank", group)[row].item() == pytest.approx(np.mean(terms), rel=1e-10)


def test_likelihood_levels_look_at_the_best_response_alone():
    group = random_group(18, 5, 4)
    _, mean, r, n, _ = arrays(group)
    best, rows = r.argmax(1), np.arange(5)
    total = -group.policy_logps.numpy()[rows, best].sum() / n[rows, best].sum()
    assert make_objective("sft")(group).loss.item() == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(values("raft", group).numpy(), -mean[rows, best], rtol=1e-12)
    mixed = (0.8 * r + 0.6 * group.extra_rewards[..., 0].numpy()).argmax(1)
    assert (mixed != best).any()
    np.testing.assert_allclose(values("dpa", group).numpy(), -mean[rows, mixed], rtol=1e-12)


def test_further_terms_of_pairs():
    group = random_group(19, 6, 2)
    gold = -(group.gold_logps / group.gold_lengths)
    plain = values("dpo", group, reference="none", beta=0.01)
    torch.testing.assert_close(values("tpo_triple", group), plain + gold, **EXACT)
    why = -torch.nn.functional.logsigmoid(0.1 * group.rationale_logps)
    torch.testing.assert_close(values("rationale_dpo", group), values("dpo", group) + why, **EXACT)


def test_an_ensemble_is_regressed_on_its_mean():
    group = random_group(20, 6, 2, extra=3)
    mean = torch.cat([group.rewards[..., None], group.extra_rewards], dim=2).mean(dim=2)
    torch.testing.assert_close(
        values("distill_mean", group), values("distill_dpo", change(group, rewards=mean)), **EXACT
    )


def test_token_levels_are_dpo_with_a_shift_and_with_weights():
    group = random_group(21, 6, 2, scale=2)
    kl = group.token_kl.sum(dim=2)
    shifted = change(group, policy_logps=group.policy_logps + kl)
    torch.testing.assert_close(values("tdpo1", group), values("dpo", shifted), **EXACT)
    half = change(group, policy_logps=group.policy_logps + 0.5 * kl)
    torch.testing.assert_close(values("tdpo2", group), values("dpo", half), **EXACT)
    ones = torch.ones_like(group.token_kl)
    whole = change(group, token_weights=ones, token_kl_weights=ones)
    torch.testing.assert_close(
        values("sparse_po", whole, beta=0.1), values("tdpo1", group), **EXACT
    )
    none = change(group, token_weights=ones, token_kl_weights=0 * ones)
    torch.testing.assert_close(values("sparse_po", none, beta=0.1), values("dpo", group), **EXACT)


def test_only_the_worse_responses_kl_is_trained_in_the_second_form():
    group = random_group(22, 4, 2, scale=2)
    leaf = group.token_kl.clone().requires_grad_(True)
    make_objective("tdpo2")(change(group, token_kl=leaf)).loss.backward()
    best = group.rewards.argmax(dim=1)
    rows = torch.arange(4)
    assert (leaf.grad[rows, best] == 0).all()
    assert (leaf.grad[rows, 1 - best].abs().sum(dim=1) > 0).all()


def test_the_reverse_of_infonca_is_rpo_fwd():
    group = random_group(23, 5, 4, scale=3)
    torch.testing.assert_close(
        values("infonca_reverse", group), values("rpo_fwd", group, beta=0.1, eta=10.0), **EXACT
    )


def test_preference_scores_are_the_logits_of_win_probabilities():
    group = random_group(24, 3, 4)
    np.testing.assert_allclose(
        group.win_rates(logits=True).numpy(), logit(group.win_probs.numpy()).mean(axis=2)
    )
    sure = change(group, win_probs=torch.ones(3, 4, 4))
    assert group.win_rates(logits=True).isfinite().all()
    assert sure.win_rates(logits=True).isfinite().all()
    assert expit(sure.win_rates(logits=True).numpy()).min() > 0.999
