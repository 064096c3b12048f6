"""Policy gradients while responses are drawn: whose log-probs the ratio divides by, and shapers."""

import numpy as np
import pytest
import torch
from rollouts import make_rollout, rewarded

from ablate.config.levels import read_level
from ablate.config.shaping import ShapingConfig
from ablate.errors import DataError
from ablate.objectives import make_objective
from ablate.rewards.normalize import Normalizer
from ablate.rewards.shaping import Shaper
from ablate.rewards.sources import ScalarSource
from ablate.rewards.table import TrainingReward
from ablate.training.behaviour import with_behaviour
from ablate.training.online import FreshGroups
from ablate.training.policy import train_policy


@pytest.fixture
def train(make_model, make_training, tokenizer, tmp_path_factory):
    """Train a fresh model; returns (model, result)."""

    def run(groups, objective, *, every=None, behaviour="given", **more):
        model = make_model()
        if every is not None:
            groups = FreshGroups(len(groups.prompts), every, groups)
        result = train_policy(
            model, tokenizer, groups, objective,
            make_training(**{"batch_size": 4, "checkpoint_every": 9, **more}), seed=0,
            behaviour=behaviour, work_dir=tmp_path_factory.mktemp("run"),
        )  # fmt: skip
        return model, result

    return run


@pytest.mark.parametrize("name", ["rloo", "grpo", "gspo", "reinforce_pp"])
def test_the_ratio_is_one_where_responses_are_fresh_and_leaves_it_where_they_are_not(
    name, train, tokenizer
):
    objective = make_objective(name)
    _, online = train(make_rollout(tokenizer), objective, every=1, lr=1e-2, epochs=2.0)
    assert online.steps["ratio"].tolist() == pytest.approx([1.0] * 6, abs=1e-6)
    assert (online.steps["clipped"] == 0).all()
    _, semi = train(make_rollout(tokenizer), objective, every=2, lr=1e-2, epochs=2.0)
    away = (semi.steps["ratio"] - 1).abs().to_numpy()
    assert (away[::2] < 1e-4).all()  # the first step after each draw
    assert (away[1::2] > 1e-3).all()


def test_online_rloo_and_sqloo_take_the_same_path(train, tokenizer):
    """Their gradients differ by βK²/(K-1), and Adam does not see a factor (2502.00203)."""
    more = {"every": 1, "epochs": 2.0, "lr": 1e-3, "max_grad_norm": None, "adam_epsilon": 1e-20}
    one, left = train(make_rollout(tokenizer), make_objective("rloo", beta=0.3), **more)
    two, right = train(make_rollout(tokenizer), make_objective("rpo_sqloo", beta=0.3), **more)
    assert left.steps["length"].tolist() == right.steps["length"].tolist()
    factor = 0.3 * 3**2 / 2
    assert (right.steps["grad_norm"] / left.steps["grad_norm"]).tolist() == pytest.approx(
        [factor] * 6, rel=1e-3
    )
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_stored_responses_need_to_say_who_drew_them(train, make_groups, make_model, tokenizer):
    groups, objective = make_groups(8), make_objective("grpo", beta=0.0)
    with pytest.raises(DataError, match=r"objective=grpo weighs responses.*no old_token_logps"):
        train(groups, objective)
    _, initial = train(groups, objective, behaviour="initial")
    assert initial.steps["ratio"].iloc[0] == pytest.approx(1.0, abs=1e-5)
    _, same = train(with_behaviour(make_model(), tokenizer, groups), objective)
    assert same.steps["loss"].tolist() == initial.steps["loss"].tolist()
    _, other = train(with_behaviour(make_model(5), tokenizer, groups), objective)
    assert abs(other.steps["ratio"].iloc[0] - 1) > 0.01


class EvenLength:
    """Right where the number of tokens is even."""

    def score(self, answers):
        return np.array([float(len(answer.response_ids) % 2 == 0) for answer in answers])


def test_a_shaper_follows_the_training(train, tokenizer):
    """HAPO's history grows with every visit; the budget sees the steps of the optimizer."""

    def reward(name, **changes):
        config = ShapingConfig(**{**read_level("shaping", name), **changes})
        made = TrainingReward(ScalarSource(EvenLength()), "none", 3.0, Shaper(config))
        made.normalizer = Normalizer("none", 3.0, 0.0, 1.0)
        return made

    hapo = reward("hapo")
    seen = []

    def score(answers, step):
        before = hapo.shaper.state_dict()
        table = hapo.score(answers, step)
        seen.append((step, before, table.reward.copy(), [len(a.response_ids) for a in answers]))
        return rewarded(table.reward, answers)

    train(make_rollout(tokenizer, score=score), make_objective("rloo"), every=2, epochs=4.0)
    assert sorted({step for step, *_ in seen}) == [0, 2, 4, 6, 8, 10]
    assert seen[0][1] == {}
    assert set(seen[0][2]) <= {0.0, 1.0}  # without history: the verdict
    late = np.concatenate([found[2] for found in seen if found[1]])
    assert len(set(late.tolist()) - {0.0, 1.0}) > 1
    assert all(length % 2 == 0 for length in hapo.shaper.state_dict().values())
    shortest = [min(state.values()) for _, state, *_ in seen if state]
    assert shortest == sorted(shortest, reverse=True)

    budget, steps = reward("budget", start=6, decay=0.5, interval=4), []

    def limited(answers, step):
        steps.append(step)
        return rewarded(budget.score(answers, step).reward, answers)

    train(make_rollout(tokenizer, score=limited), make_objective("rloo"), every=1, epochs=2.0)
    assert sorted(set(steps)) == [0, 1, 2, 3, 4, 5]
