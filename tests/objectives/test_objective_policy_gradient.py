"""Policy gradients by hand: advantages, ratios, clips, KL, means; and their place beside RPO."""

import itertools
import math
from statistics import stdev

import pytest
import torch
from objective_groups import change, every_level, leaf_name, random_group

from ablate.errors import DataError
from ablate.objectives import PromptGroup, make_objective, response_scales, token_scales

LEVELS = every_level(lambda o: o.config.structure == "policy_gradient")
PLAIN = {"clip": "none", "clip_low": None, "clip_high": None, "kl": "none", "beta": 0.0,
         "log_z": "ignored"}  # fmt: skip


def tokens_of(rows):
    """float64[B, K, T] from lists of per-token log-probs, and their lengths."""
    longest = max(len(row) for group in rows for row in group)
    wide = [[[*row, *[0.0] * (longest - len(row))] for row in group] for group in rows]
    lengths = torch.tensor([[len(row) for row in group] for group in rows])
    return torch.tensor(wide, dtype=torch.float64), lengths


def group_of(policy, rewards, old=None, reference=None):
    """A group from per-token log-probs; fresh without `old`."""
    tokens, lengths = tokens_of(policy)
    fields = {}
    if old is not None:
        fields["old_token_logps"] = tokens_of(old)[0]
    if reference is not None:
        fields["token_ref_logps"] = tokens_of(reference)[0]
        fields["ref_logps"] = fields["token_ref_logps"].sum(dim=2)
    return PromptGroup(
        policy_logps=tokens.sum(dim=2),
        token_logps=tokens,
        rewards=torch.tensor(rewards, dtype=torch.float64),
        lengths=lengths,
        **fields,
    )


def gradient(objective, group):
    """∂loss/∂log π, of tokens where the objective reads these."""
    name = leaf_name(objective)
    leaf = getattr(group, name).clone().requires_grad_(True)
    return torch.autograd.grad(objective(change(group, **{name: leaf})).loss, leaf)[0]


# -- advantages: on fresh responses the gradient of a response is -A/K


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        ({"advantage": "reward"}, [[1.0, 0.0, 2.0], [4.0, 4.0, 1.0]]),
        ({"advantage": "loo"}, [[0.0, -1.5, 1.5], [1.5, 1.5, -3.0]]),
        ({"advantage": "group_mean"}, [[0.0, -1.0, 1.0], [1.0, 1.0, -2.0]]),
        ({"advantage": "loo", "eta": 2.0}, [[0.0, -3.0, 3.0], [3.0, 3.0, -6.0]]),
        (
            {"advantage": "group_mean", "advantage_scale": "group_std", "scale_epsilon": 0.5},
            [[0.0, -1 / 1.5, 1 / 1.5],
             [1 / (3**0.5 + 0.5), 1 / (3**0.5 + 0.5), -2 / (3**0.5 + 0.5)]],
        ),
        (
            {"advantage": "group_mean", "advantage_scale": "batch_std", "scale_epsilon": 1e-9},
            [[value / stdev([1, 0, 2, 4, 4, 1]) for value in row]
             for row in ([0.0, -1.0, 1.0], [1.0, 1.0, -2.0])],
        ),
    ],
)  # fmt: skip
def test_advantages_by_hand(slots, expected):
    rows = [[[-1.0], [-1.0, -2.0], [-0.5]], [[-1.0], [-3.0], [-0.1, -0.2, -0.3]]]
    group = group_of(rows, [[1.0, 0.0, 2.0], [4.0, 4.0, 1.0]])
    objective = make_objective("rloo", **{**PLAIN, **slots})
    # two prompts, three responses
    advantage = -6 * gradient(objective, group)
    torch.testing.assert_close(advantage, torch.tensor(expected, dtype=torch.float64))


def test_whitening_is_over_all_tokens_of_the_batch():
    rows = [[[-1.0], [-1.0, -2.0]], [[-1.0, -1.0, -1.0], [-3.0, -3.0]]]
    group = group_of(rows, [[1.0, 0.0], [4.0, 2.0]])
    objective = make_objective("reinforce_pp", **PLAIN, scale_epsilon=1e-9)
    each = [1.0, 0, 0, 4, 4, 4, 2, 2]
    mean = sum(each) / 8
    deviation = math.sqrt(sum((value - mean) ** 2 for value in each) / 8)
    got = -4 * gradient(objective, group).sum(dim=2)  # every token has 1/|y| of its response
    expected = [[(1 - mean) / deviation, -mean / deviation],
                [(4 - mean) / deviation, (2 - mean) / deviation]]  # fmt: skip
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_kl_in_the_reward_and_in_the_return():
    """The first takes the whole log-ratio from every token, the second what is still to come."""
    policy, reference = [[[-1.0, -2.0, -3.0], [-1.0]]], [[[-1.5, -2.5, -2.0], [-2.0]]]
    group = group_of(policy, [[1.0, 0.0]], reference=reference)
    drift = [[0.5, 0.5, -1.0], [1.0]]
    slots = {**PLAIN, "beta": 0.2, "advantage": "reward", "advantage_scale": "none",
             "scale_epsilon": None}  # fmt: skip
    inside = make_objective("grpo", **{**slots, "kl": "in_reward"})
    expected = [[1.0 - 0.2 * sum(drift[0])] * 3, [-0.2 * 1.0, 0, 0]]
    torch.testing.assert_close(
        -2 * gradient(inside, group)[0] * group.lengths[0][:, None],
        torch.tensor(expected, dtype=torch.float64),
    )
    to_come = make_objective("grpo", **{**slots, "kl": "in_return"})
    expected = [[1.0 - 0.2 * sum(drift[0][t:]) for t in range(3)], [-0.2, 0, 0]]
    torch.testing.assert_close(
        -2 * gradient(to_come, group)[0] * group.lengths[0][:, None],
        torch.tensor(expected, dtype=torch.float64),
    )


# -- ratios and clips


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 1.0, -1.1, -1.1),  # inside: the gradient of the ratio, which is the ratio
        (1.1, -1.0, 1.1, 1.1),
        (1.5, 1.0, -1.3, 0.0),  # a good one far above: no further
        (1.5, -1.0, 1.5, 1.5),  # a bad one far above: back
        (0.5, 1.0, -0.5, -0.5),
        (0.5, -1.0, 0.8, 0.0),  # a bad one far below: no further
    ],
)
@pytest.mark.parametrize("level", ["rloo", "grpo", "gspo"])
def test_the_clip_case_by_case(level, ratio, advantage, loss, slope):
    """One ratio moves, the other is 1; with one token all levels of the ratio agree."""
    group = group_of([[[-1.0], [-1.0]]], [[advantage, 0.0]], [[[-1.0 - math.log(ratio)], [-1.0]]])
    slots = {"advantage": "reward", "advantage_scale": "none", "scale_epsilon": None, "beta": 0.0,
             "clip_low": 0.2, "clip_high": 0.3, "kl": "none", "log_z": "ignored"}  # fmt: skip
    objective = make_objective(level, **slots)
    assert 2 * objective(group).loss.item() == pytest.approx(loss)
    assert 2 * gradient(objective, group).flatten()[0].item() == pytest.approx(slope)
    assert objective(group).metrics["clipped"] == (0.5 if slope == 0 else 0.0)


def test_levels_of_the_ratio():
    old, policy = [[[-1.0, -2.0], [-1.0]]], [[[-0.9, -2.3], [-1.0]]]
    group = group_of(policy, [[1.0, 0.0]], old)
    slots = {**PLAIN, "advantage": "reward", "advantage_scale": "none", "scale_epsilon": None}
    expected = {
        "token": -(math.exp(0.1) + math.exp(-0.3)) / 2,
        "sequence": -math.exp(-0.2),
        "sequence_mean": -math.exp(-0.1),
    }
    for ratio, loss in expected.items():
        objective = make_objective("grpo", **slots, ratio=ratio)
        assert 2 * objective(group).loss.item() == pytest.approx(loss), ratio


def test_cispo_weighs_every_token_and_stops_none():
    old, policy = [[[-3.0, -1.0], [-1.0]]], [[[-1.0, -1.5], [-1.0]]]
    group = group_of(policy, [[1.0, 0.0]], old)
    objective = make_objective(
        "cispo", clip_high=2.0, advantage="reward", advantage_scale="none", scale_epsilon=None
    )
    # three tokens in the prompt; e² is capped at 2
    expected = torch.tensor([[[-2.0, -math.exp(-0.5)], [0.0, 0.0]]], dtype=torch.float64) / 3
    torch.testing.assert_close(gradient(objective, group), expected)


@pytest.mark.parametrize("name", LEVELS)
def test_fresh_responses_are_those_whose_behaviour_is_the_policy(name):
    """Without old_token_logps the ratio is 1, its gradient that of log π."""
    objective = make_objective(name)
    group = change(random_group(3, 5, 4, ragged=True), old_token_logps=None)
    group = change(
        group, policy_logps=group.token_logps.sum(dim=2), ref_logps=group.token_ref_logps.sum(dim=2)
    )
    given = change(group, old_token_logps=group.token_logps)
    torch.testing.assert_close(gradient(objective, group), gradient(objective, given))
    assert objective(group).metrics["ratio"] == pytest.approx(1.0)
    assert objective(group).metrics["clipped"] == 0
    other = change(group, old_token_logps=group.token_logps + 0.3 * group.token_weights)
    assert (gradient(objective, other) - gradient(objective, group)).abs().max() > 1e-6


# -- means over tokens


@pytest.mark.parametrize(
    ("slots", "weights"),
    [
        ({"over_tokens": "mean"}, [[1 / 4, 1 / 8], [1 / 12, 1 / 4]]),
        ({"over_tokens": "sum"}, [[1 / 4, 1 / 4], [1 / 4, 1 / 4]]),
        ({"over_tokens": "group_mean"}, [[1 / 6, 1 / 6], [1 / 8, 1 / 8]]),
        ({"over_tokens": "constant", "constant_length": 10}, [[1 / 40, 1 / 40], [1 / 40, 1 / 40]]),
        ({"over_tokens": "sum", "aggregate": "token_mean"}, [[1 / 7, 1 / 7], [1 / 7, 1 / 7]]),
    ],
)
def test_what_a_token_counts(slots, weights):
    """Lengths 1 and 2 in the first prompt, 3 and 1 in the second; the advantage is the reward."""
    rows = [[[-1.0], [-1.0, -2.0]], [[-1.0, -1.0, -1.0], [-3.0]]]
    group = group_of(rows, [[1.0, 1.0], [1.0, 1.0]])
    fixed = {**PLAIN, "advantage": "reward", "advantage_scale": "none", "scale_epsilon": None}
    by_token = -gradient(make_objective("grpo", **{**fixed, **slots}), group)
    real = torch.arange(3) < group.lengths[..., None]
    expected = torch.tensor(weights, dtype=torch.float64)[..., None] * real
    torch.testing.assert_close(by_token, expected)


def test_token_means_of_a_ragged_batch():
    """A prompt with one response more: the batch's tokens count alike nevertheless."""
    group = random_group(4, 3, 4, ragged=True)
    group.mask[0] = True
    group.mask[1, 2:] = False
    group.mask[1, :2] = True
    objective = make_objective(
        "grpo", **{**PLAIN, "advantage": "reward", "over_tokens": "sum", "aggregate": "token_mean",
                   "advantage_scale": "none", "scale_epsilon": None},
    )  # fmt: skip
    fresh = change(group, old_token_logps=None)
    real = torch.arange(12) < group.lengths[..., None]
    real = real & group.present[..., None]
    expected = -group.rewards[..., None] * real / real.sum()
    torch.testing.assert_close(gradient(objective, fresh), expected)


# -- beside RPO, and in a world that is solved exactly


@pytest.mark.parametrize("size", [2, 3, 5])
def test_online_sqloo_is_rloo_up_to_a_factor(size):
    """Scale of sqloo at η=1: -βK/(K-1) times the advantage; of rloo: -1/K times (2502.00203)."""
    beta = 0.3
    group = change(random_group(1, 4, size), old_token_logps=None)
    sqloo = response_scales(make_objective("rpo_sqloo", beta=beta, eta=1.0), group)
    rloo = response_scales(make_objective("rloo", beta=beta), group)
    torch.testing.assert_close(sqloo, beta * size**2 / (size - 1) * rloo)


def expected_gradient(objective, theta, reference, rewards, size):
    """-E over all K-tuples of one-token samples of the loss's gradient, in the logits θ."""
    logps = theta.log_softmax(0)
    samples = torch.tensor(list(itertools.product(range(len(theta)), repeat=size)))
    chance = logps.detach()[samples].sum(dim=1).exp()
    picked = logps[samples]
    group = PromptGroup(
        policy_logps=picked,
        token_logps=picked[..., None],
        ref_logps=reference[samples],
        token_ref_logps=reference[samples][..., None],
        rewards=rewards[samples],
        lengths=torch.ones_like(samples),
    )
    weighted = (chance * objective(group).per_prompt).sum()
    return -torch.autograd.grad(weighted, theta)[0]


@pytest.fixture
def table():
    """θ, reference and rewards of a world of five one-token responses."""
    generator = torch.Generator().manual_seed(5)
    reference = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(0)
    rewards = torch.randn(5, generator=generator, dtype=torch.float64)
    theta = torch.linspace(-1, 1, 5, dtype=torch.float64, requires_grad=True)
    return theta, reference, rewards


def slope(theta, value):
    return torch.autograd.grad(value(theta.log_softmax(0)), theta)[0]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_expected_gradients_are_those_of_reward_less_kl(table, size, beta):
    """Where they should be: a leave-one-out baseline is unbiased, the mean of all a factor off."""
    theta, reference, rewards = table
    reward = slope(theta, lambda p: (p.exp() * rewards).sum())
    kl = slope(theta, lambda p: (p.exp() * (p - reference)).sum())
    rloo = make_objective("rloo", beta=beta)
    got = expected_gradient(rloo, theta, reference, rewards, size)
    torch.testing.assert_close(got, reward - beta * kl, rtol=1e-11, atol=1e-13)
    factor = (size - 1) / size
    dr_grpo = make_objective("dr_grpo", beta=beta, kl="in_loss_weighted", constant_length=1)
    got = expected_gradient(dr_grpo, theta, reference, rewards, size)
    torch.testing.assert_close(got, factor * reward - beta * kl, rtol=1e-11, atol=1e-13)


def test_k3_in_the_loss_pulls_along_the_other_kl(table):
    """As published, GRPO's KL term has the gradient of KL(π_ref ‖ π), and not of KL(π ‖ π_ref)."""
    theta, reference, rewards = table
    slots = {"constant_length": 1, "beta": 1.0}
    both = expected_gradient(make_objective("dr_grpo", **slots), theta, reference, rewards, 2)
    alone = expected_gradient(
        make_objective("dr_grpo", **{**slots, "beta": 0.0}), theta, reference, rewards, 2
    )
    forward = slope(theta, lambda p: (reference.exp() * (reference - p)).sum())
    reverse = slope(theta, lambda p: (p.exp() * (p - reference)).sum())
    torch.testing.assert_close(alone - both, forward, rtol=1e-11, atol=1e-13)
    assert (forward - reverse).abs().max() > 0.01


def test_dividing_by_the_deviation_of_the_prompt_is_biased(table):
    """GRPO's standard deviation turns the expected gradient: no multiple of that of E[r]."""
    theta, reference, rewards = table
    grpo = expected_gradient(make_objective("grpo", beta=0.0), theta, reference, rewards, 3)
    reward = slope(theta, lambda p: (p.exp() * rewards).sum())
    assert torch.cosine_similarity(grpo, reward, dim=0) < 0.999


# -- what counts, and training by parts


def test_a_prompt_without_spread_is_left_out_only_where_asked():
    group = group_of([[[-1.0], [-2.0]]] * 3, [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    everything = make_objective("dapo", group_filter="none")(group)
    spread = make_objective("dapo")(group)
    assert everything.usable.tolist() == [True, True, True]
    assert spread.usable.tolist() == [True, False, False]
    assert everything.metrics["ties"] == spread.metrics["ties"] == 2
    torch.testing.assert_close(spread.loss, 3 * everything.loss)


def test_one_response_is_enough_without_a_baseline():
    group = group_of([[[-1.0, -2.0]], [[-1.0]]], [[1.0], [0.0]], reference=[[[-1.0] * 2], [[-1.0]]])
    assert make_objective("reinforce_pp")(group).usable.all()
    assert not make_objective("rloo")(group).usable.any()


@pytest.mark.parametrize(
    "name", every_level(lambda o: o.batch_coupled and o.needs.tokens and not o.needs.token_kl)
)
def test_two_passes_of_a_coupled_token_loss_give_the_gradient_of_the_whole_batch(name):
    objective = make_objective(name)
    group = random_group(1, 6, 3, ragged=True)
    weights = torch.randn(
        6, 3, 12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    theta = torch.tensor([0.1, -0.05], dtype=torch.float64, requires_grad=True)

    def logps(rows):
        return group.token_logps[rows] + weights[rows] @ theta

    objective(change(group, token_logps=logps(slice(None)))).loss.backward()
    expected = theta.grad.clone()
    theta.grad = None
    with torch.no_grad():
        whole = change(group, token_logps=logps(slice(None)))
    scales = token_scales(objective, whole)
    for rows in (slice(0, 4), slice(4, 6)):
        (scales[rows] * logps(rows)).sum().backward()
    torch.testing.assert_close(theta.grad, expected, rtol=1e-12, atol=1e-15)
    # and why: a part of the batch has another mean and deviation
    parts = torch.cat([objective(whole.rows(slice(i, i + 3))).per_prompt for i in (0, 3)])
    assert (parts - objective(whole).per_prompt).abs().max() > 1e-3


def test_token_scales_are_the_gradient_and_are_refused_for_whole_distributions():
    objective, group = make_objective("grpo"), random_group(2)
    torch.testing.assert_close(token_scales(objective, group), gradient(objective, group))
    with pytest.raises(DataError, match="whole distributions"):
        token_scales(make_objective("tdpo1"), group)


@pytest.mark.parametrize("target", ["win_rate", "win_logit"])
def test_win_rates_can_stand_in_for_rewards(target):
    group = random_group(3)
    values = group.win_rates(logits=target == "win_logit")
    wins = make_objective("grpo", target=target)(change(group, rewards=None))
    same = make_objective("grpo")(change(group, rewards=values, win_probs=None))
    torch.testing.assert_close(wins.per_prompt, same.per_prompt)
