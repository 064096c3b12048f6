"""Worlds small enough to solve exactly: a tabular policy over all responses of a prompt."""

import itertools

import pytest
import torch
from objective_groups import change

from ablate.objectives import PromptGroup, make_objective, response_scales

COUNT = 50


def world(seed, count=COUNT):
    """Logits of the reference and rewards of every response."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(count, generator=generator, dtype=torch.float64).log_softmax(0)
    rewards = torch.randn(count, generator=generator, dtype=torch.float64)
    return reference, rewards


def minimise(loss_of, count=COUNT):
    """Log-probs of the tabular policy that minimises loss_of(log-probs)."""
    theta = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [theta],
        max_iter=500,
        tolerance_grad=1e-11,
        tolerance_change=0,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def closure():
        solver.zero_grad()
        loss = loss_of(theta.log_softmax(0))
        loss.backward()
        return loss

    solver.step(closure)
    return theta.detach().log_softmax(0)


def distance(first, second):
    """Total variation between two distributions given by log-weights."""
    return 0.5 * (first.softmax(0) - second.softmax(0)).abs().sum().item()


@pytest.mark.parametrize("name", ["rpo_bwd", "rpo_fwd", "rpo_sqloo", "gvpo"])
@pytest.mark.parametrize(("beta", "eta"), [(0.5, 1.0), (1.0, 1.5)])
def test_k_way_rpo_ends_at_the_tilted_reference(name, beta, eta):
    reference, rewards = world(0)
    objective = make_objective(name, beta=beta, eta=eta)

    def loss_of(logps):
        return objective(PromptGroup(logps[None], reference[None], rewards[None])).loss

    # the forward KL is not convex, so it needs not end there; its gradient must vanish there
    optimum = reference + eta * rewards / beta
    if name == "rpo_fwd":
        at = optimum.log_softmax(0).requires_grad_(True)
        gradient = torch.autograd.grad(loss_of(at.log_softmax(0)), at)[0]
        assert gradient.abs().max() < 1e-12
    else:
        assert distance(minimise(loss_of), optimum) < 1e-6


def preference_pairs(reference):
    """Indices of all ordered pairs, and a group of them with the first response better."""
    first, second = torch.cartesian_prod(torch.arange(COUNT), torch.arange(COUNT)).T
    apart = first != second
    index = torch.stack([first[apart], second[apart]], dim=1)
    ranks = torch.tensor([[1.0, 0.0]]).expand(len(index), 2)
    return index, PromptGroup(reference[index], reference[index], ranks=ranks)


def weighted_pairs(objective, reference, weight):
    """A loss over all ordered pairs, each weighted by how often it is preferred."""
    index, group = preference_pairs(reference)
    share = weight[index[:, 0], index[:, 1]]

    def loss_of(logps):
        losses = objective(change(group, policy_logps=logps[index])).per_prompt
        return (share * losses).sum() / share.sum()

    return loss_of


def test_dpo_on_bradley_terry_labels_ends_at_the_tilted_reference():
    reference, rewards = world(1)
    beta = 0.7
    preferred = torch.sigmoid(rewards[:, None] - rewards[None, :])
    loss_of = weighted_pairs(make_objective("dpo", beta=beta), reference, preferred)
    assert distance(minimise(loss_of), reference + rewards / beta) < 1e-6


def test_robust_dpo_undoes_the_flips_that_it_is_told_of():
    """Labels flipped at rate ε: rdpo ends where dpo ends on clean ones, dpo elsewhere."""
    reference, rewards = world(2)
    beta, rate = 0.7, 0.2
    clean = torch.sigmoid(rewards[:, None] - rewards[None, :])
    noisy = (1 - rate) * clean + rate * clean.T
    robust = weighted_pairs(make_objective("rdpo", beta=beta, epsilon=rate), reference, noisy)
    plain = weighted_pairs(make_objective("dpo", beta=beta), reference, noisy)
    optimum = reference + rewards / beta
    assert distance(minimise(robust), optimum) < 1e-6
    assert distance(minimise(plain), optimum) > 0.05


def test_ipo_ends_at_the_reference_tilted_by_the_win_rate():
    reference, rewards = world(3)
    beta = 0.2
    preferred = torch.sigmoid(2 * (rewards[:, None] - rewards[None, :]))
    loss_of = weighted_pairs(make_objective("ipo", beta=beta), reference, preferred)
    win_rate = preferred.mean(dim=1)
    assert distance(minimise(loss_of), reference + win_rate / beta) < 1e-6


@pytest.mark.parametrize("name", ["egpo", "rpo_bwd", "rpo_sqloo"])
def test_a_target_of_win_rates_ends_at_the_reference_tilted_by_them(name):
    reference, rewards = world(6)
    beta = 0.2
    wins = torch.sigmoid(2 * (rewards[:, None] - rewards[None, :]))
    more = {"pairing": "all_pairs"} if name == "egpo" else {"target": "win_rate", "eta": 1.0}
    objective = make_objective(name, beta=beta, **more)

    def loss_of(logps):
        return objective(PromptGroup(logps[None], reference[None], win_probs=wins[None])).loss

    assert distance(minimise(loss_of), reference + wins.mean(dim=1) / beta) < 1e-6


def test_dpo_on_hard_labels_diverges():
    """Labels without noise have no finite optimum: the margins grow as long as one optimises."""
    reference, rewards = world(4)
    hard = (rewards[:, None] > rewards[None, :]).double()
    loss_of = weighted_pairs(make_objective("dpo", beta=0.5), reference, hard)
    solution = minimise(loss_of)
    by_reward = (solution - reference)[rewards.argsort()]
    assert loss_of(solution).item() < 1e-6
    assert by_reward.diff().min() > 10


def test_online_sqloo_is_the_policy_gradient_of_reward_less_kl():
    """Over all K-tuples of samples: E Σ_k scale_k ∇log π(y_k) = -β K²/(K-1) ∇(E r - β KL)."""
    count, beta = 5, 0.4
    reference, rewards = world(5, count)
    theta = torch.linspace(-1, 1, count, dtype=torch.float64, requires_grad=True)
    logps = theta.log_softmax(0)
    value = (logps.exp() * (rewards - beta * (logps - reference))).sum()
    policy_gradient = torch.autograd.grad(value, theta, retain_graph=True)[0]
    objective = make_objective("rpo_sqloo", beta=beta)
    for size in (2, 3):
        samples = torch.tensor(list(itertools.product(range(count), repeat=size)))
        group = PromptGroup(logps.detach()[samples], reference[samples], rewards[samples])
        scales = response_scales(objective, group) * len(samples)
        chance = logps.detach()[samples].sum(dim=1).exp()
        surrogate = (chance[:, None] * scales * logps[samples]).sum()
        gradient = torch.autograd.grad(surrogate, theta, retain_graph=True)[0]
        expected = -beta * size**2 / (size - 1) * policy_gradient
        torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-13)
