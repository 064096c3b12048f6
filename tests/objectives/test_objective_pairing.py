"""Which responses are compared, and what happens to ties."""

from itertools import combinations

import numpy as np
import pytest
import torch
from objective_groups import LEVELS, change, every_level, pair, random_group, values_and_gradient

from ablate.groups import PromptGroup
from ablate.objectives import make_objective
from ablate.objectives.pairs import choose_pairs

REWARDS = [[1.0, 3.0, 2.0, 3.0, 0.0]]


def group_of(rewards, mask=None, key=None):
    rewards = torch.tensor(rewards)
    return PromptGroup(
        policy_logps=torch.zeros_like(rewards),
        ref_logps=torch.zeros_like(rewards),
        rewards=rewards,
        mask=None if mask is None else torch.tensor(mask),
        pairing_key=None if key is None else torch.tensor(key),
    )


def chosen(pairing, group, row=0):
    pairs = choose_pairs(pairing, group)
    return [
        (b, w)
        for b, w, valid in zip(
            pairs.better[row].tolist(), pairs.worse[row].tolist(), pairs.valid[row], strict=True
        )
        if valid
    ]


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        ("best_vs_random", [(1, 0)]),
        ("best_vs_worst", [(1, 4)]),
        ("adjacent", [(1, 3), (3, 2), (2, 0), (0, 4)]),
        (
            "all_pairs",
            [(1, 3), (1, 2), (1, 0), (1, 4), (3, 2), (3, 0), (3, 4), (2, 0), (2, 4), (0, 4)],
        ),
    ],
)
def test_pairs_without_keys(pairing, expected):
    assert chosen(pairing, group_of(REWARDS)) == expected


def test_keys_settle_the_random_other_and_equal_bests():
    group = group_of(REWARDS, key=[[9, 7, 4, 1, 2]])
    assert chosen("best_vs_random", group) == [(3, 4)]
    assert chosen("best_vs_worst", group) == [(3, 4)]
    assert chosen("adjacent", group)[0] == (3, 1)


def test_absent_responses_are_never_chosen():
    mask = [[True, False, True, False, True]]
    group = group_of(REWARDS, mask=mask)
    assert chosen("best_vs_random", group) == [(2, 0)]
    assert chosen("adjacent", group) == [(2, 0), (0, 4)]
    assert chosen("best_vs_worst", group) == [(2, 4)]
    assert len(chosen("all_pairs", group)) == 3
    lonely = group_of(REWARDS, mask=[[False, False, True, False, False]])
    assert all(chosen(kind, lonely) == [] for kind in ("adjacent", "all_pairs", "best_vs_worst"))


def test_the_random_other_is_uniform_over_worse_responses():
    """Over random keys each strictly worse response is drawn equally often."""
    rng = np.random.default_rng(0)
    draws = 6000
    keys = rng.permuted(np.tile(np.arange(5), (draws, 1)), axis=1)
    group = group_of(np.tile(np.array(REWARDS), (draws, 1)), key=keys)
    worse = choose_pairs("best_vs_random", group).worse[:, 0]
    share = torch.bincount(worse, minlength=5) / draws
    assert share[[1, 3]].sum() == 0
    assert (share[[0, 2, 4]] - 1 / 3).abs().max() < 0.03  # five standard errors


def test_all_tied_is_a_tie_and_less_is_not():
    tied = choose_pairs("best_vs_random", group_of([[2.0, 2.0, 2.0]]))
    assert tied.tied.tolist() == [[True]]
    assert tied.better.tolist() == [[0]]
    assert tied.worse.tolist() == [[1]]
    assert not choose_pairs("best_vs_random", group_of([[2.0, 2.0, 1.0]])).tied.any()


#: pairwise levels that may count a tie half (an infinite shift or a batch-wide sort cannot)
HALVED = every_level(
    lambda o: (
        o.config.ties == "drop"
        and o.config.pairing is not None
        and o.config.shift != "log_reward_gap"
        and o.config.target != "win_prob"
        and o.config.batch_sort == "none"
        and o.config.adapt == "none"
        and o.config.weight != "lambda_rank"
        and not o.config.mix
    )
)


@pytest.mark.parametrize("name", every_level(lambda o: o.config.ties == "drop"))
def test_dropped_ties_leave_the_denominator_and_are_counted(name):
    group = random_group(0, 4, 2)
    rewards = group.rewards.clone()
    rewards[1, 1] = rewards[1, 0]
    tied = change(group, rewards=rewards)
    objective = make_objective(name, **({"gap_keep": 1.0} if name == "beta_dpo" else {}))
    output = objective(tied)
    assert output.usable.tolist() == [True, False, True, True]
    assert output.metrics["ties"] == 1
    assert output.metrics["unusable"] == 1
    if objective.config.aggregate == "mean":
        assert output.loss == pytest.approx(output.per_prompt.sum().item() / 3)
    rest = objective(tied.rows(torch.tensor([0, 2, 3])))
    if name != "kto":  # z₀ averages over all mismatched pairs given
        assert output.loss == pytest.approx(rest.loss.item())
    assert torch.equal(objective.usable(tied), output.usable)


@pytest.mark.parametrize("name", HALVED)
def test_half_ties_are_the_mean_of_both_orders(name):
    objective = make_objective(name)
    half = make_objective(name, ties="half")
    base = random_group(4, 3, 2)
    values = []
    for rewards in ([1.0, 0.0], [0.0, 1.0]):
        group = change(base, rewards=torch.tensor([rewards] * 3, dtype=torch.float64))
        values.append(objective(group).per_prompt)
    tied = change(base, rewards=torch.ones(3, 2, dtype=torch.float64))
    output = half(tied)
    assert output.usable.all()
    assert output.metrics["ties"] == 3
    torch.testing.assert_close(output.per_prompt, 0.5 * (values[0] + values[1]))


def test_a_half_tie_of_dpo_pulls_both_together():
    group = pair(2.0, -1.0, reward=1.0, other=1.0)
    _, gradient = values_and_gradient(make_objective("dpo", ties="half"), group)
    assert gradient[0, 0] > 0 > gradient[0, 1]


def test_equal_rewards_are_a_target_where_scores_are_known():
    group = pair(2.0, -1.0, reward=1.0, other=1.0)
    group.win_probs = torch.tensor([[[0.5, 0.6], [0.4, 0.5]]], dtype=torch.float64)
    group.extra_rewards = torch.ones(1, 2, 1, dtype=torch.float64)
    for name in every_level(lambda o: o.config.ties == "keep" and not o.needs.behaviour):
        output = make_objective(name)(group)
        if name in ("pro", "irpo_rank"):  # rankings: among equals there is none
            assert not output.usable.any(), name
            continue
        assert output.usable.all(), name
        assert output.loss > 0, name


def test_all_pairs_drops_only_the_tied_pairs():
    group = random_group(2, 1, 3)
    group.rewards = torch.tensor([[2.0, 2.0, 1.0]], dtype=torch.float64)
    got = make_objective("dpo", pairing="all_pairs")(group)
    parts = [
        make_objective("dpo")(change(group, mask=torch.tensor([keep]))).per_prompt
        for keep in ([True, False, True], [False, True, True])
    ]
    torch.testing.assert_close(got.per_prompt, 0.5 * (parts[0] + parts[1]))
    assert got.metrics["ties"] == 1


def test_every_level_has_its_own_gradient_direction():
    """Levels that name different losses must move the policy differently."""
    group = random_group(21, 8, 4, scale=4)
    agreeing = {frozenset(pair) for pair in AGREEING}
    directions = {}
    for name in LEVELS:
        objective = make_objective(name)
        leaf = group.token_logps.clone().requires_grad_(True)
        moved = change(group, token_logps=leaf, policy_logps=leaf.sum(dim=2))
        objective(moved).loss.backward()
        assert leaf.grad is not None
        directions[name] = leaf.grad / leaf.grad.norm()
    for first in LEVELS:
        for second in LEVELS:
            if first < second and frozenset((first, second)) not in agreeing:
                distance = (directions[first] - directions[second]).norm()
                assert distance > 1e-3, (first, second)


#: levels that move the responses' own log-probs alike: dove differs in what stands in the groups,
#: rationale_dpo and xpo in terms of other texts
_LIKE_DPO = ("dove", "dpo", "rationale_dpo", "xpo")
AGREEING = list(combinations(_LIKE_DPO, 2))
