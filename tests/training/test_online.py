"""Online training: groups drawn from the policy as it stands, by the trainer of offline groups."""

import math
from dataclasses import replace

import pytest
import torch
from rollouts import Replay, make_rollout, rewarded, token_reward

from ablate.config.model import Lora
from ablate.errors import DataError
from ablate.models.loading import weights_digest
from ablate.models.logps import response_logps
from ablate.objectives import make_objective
from ablate.sampling.sample import sample_responses
from ablate.training.online import FreshGroups, Visit
from ablate.training.policy import train_policy
from ablate.training.watch import Curve


@pytest.fixture
def train(make_model, make_training, tokenizer, tmp_path):
    """Train a fresh model; returns (model, result)."""
    numbers = iter(range(100))

    def run(groups, name="rpo_bwd", *, every=None, model=None, **more):
        model = make_model() if model is None else model
        calls = {key: more.pop(key) for key in ("lora", "curve", "reference") if key in more}
        training = make_training(**{"batch_size": 4, "checkpoint_every": 2, **more})
        if every is not None:
            count = len(groups.stored if isinstance(groups, Replay) else groups.prompts)
            groups = FreshGroups(count, every, groups)
        result = train_policy(
            model, tokenizer, groups, make_objective(name), training, seed=0,
            work_dir=tmp_path / f"run{next(numbers)}", **calls,
        )  # fmt: skip
        return model, result

    return run


@pytest.fixture
def stored(make_model, make_groups, tokenizer):
    """Twelve ragged groups with log-probs under the initial weights."""
    groups = make_groups(12)
    items = [(group.prompt_ids, group.response_ids) for group in groups]
    logps = response_logps(make_model(), tokenizer, items, 4096)
    return [replace(group, ref_logps=row) for group, row in zip(groups, logps, strict=True)]


@pytest.mark.parametrize(
    ("name", "every"), [("rpo_bwd", 1), ("rpo_bwd", 2), ("beta_dpo", 1), ("bco", 1), ("kto", 3)]
)
def test_a_sampler_that_returns_the_stored_pool_is_offline_training_bit_for_bit(
    train, stored, name, every
):
    offline, left = train(stored, name)
    online, right = train(Replay(stored), name, every=every)
    assert weights_digest(offline) == weights_digest(online)
    assert left.steps.drop(columns="seconds").equals(right.steps.drop(columns="seconds"))


@pytest.mark.parametrize(
    "name", ["rpo_sqloo", "kto", "bco", "beta_dpo", "tdpo2", "inpo", "rloo", "reinforce_pp"]
)
def test_micro_batches_draw_the_same_and_take_the_same_path(train, make_model, tokenizer, name):
    whole, parts = make_rollout(tokenizer), make_rollout(tokenizer)
    # at the reference itself every comparison of log-ratios would be one of rounding, and a small
    # epsilon would let Adam turn rounding into steps, and these into other draws
    common = {"every": 1, "lr": 1e-4, "reference": make_model(3), "adam_epsilon": 1e-3}
    left, first = train(whole, name, **common)
    right, second = train(parts, name, micro_batch_size=1, **common)
    assert whole.drawn == parts.drawn
    assert len(whole.drawn) == 36
    for column in first.steps:
        if column != "seconds":
            assert first.steps[column].tolist() == pytest.approx(
                second.steps[column].tolist(), rel=1e-3, abs=1e-5
            ), column
    for one, two in zip(left.parameters(), right.parameters(), strict=True):
        assert torch.allclose(one, two, atol=2e-4)


def test_without_learning_a_refresh_of_several_steps_draws_what_single_ones_draw(train, tokenizer):
    drawn = {}
    for every in (1, 2, 3):
        rollout = make_rollout(tokenizer, count=9)
        _, result = train(rollout, every=every, lr=1e-30, epochs=2.0, batch_size=3)
        assert len(result.steps) == 6
        drawn[every] = rollout.drawn
    assert drawn[1] == drawn[2] == drawn[3]
    # nothing was learnt, and still a second visit of a prompt is answered anew
    by_visit = {0: {}, 1: {}}
    for prompt, number, index, ids in drawn[1]:
        by_visit[number][prompt, index] = ids
    assert by_visit[0].keys() == by_visit[1].keys()
    assert by_visit[0] != by_visit[1]


def test_what_is_drawn_follows_the_policy(train, tokenizer):
    """With learning, later draws differ from those of the initial weights."""
    still, moving = make_rollout(tokenizer), make_rollout(tokenizer)
    train(still, every=1, lr=1e-30)
    train(moving, every=1, lr=3e-2)
    assert still.drawn[:12] == moving.drawn[:12]  # the first step's
    assert still.drawn[12:] != moving.drawn[12:]


def test_a_draw_is_that_of_the_sampler_alone(train, make_model, tokenizer):
    """Fused head, training mode and batches of the trainer change no response."""
    rollout = make_rollout(tokenizer)
    train(rollout, every=1, lr=1e-30)
    prompts = [(f"p{place}|0", ids) for place, ids in enumerate(rollout.prompt_ids)]
    alone = sample_responses(
        make_model(), tokenizer, prompts, 3, sampling=rollout.sampling, seed=7, batch_size=5
    )
    assert sorted(rollout.drawn) == [
        (place // 3, 0, response.index, response.ids) for place, response in enumerate(alone)
    ]
    assert rollout.states == [(False, False)] * 3  # evaluation mode, no gradient


def test_more_may_be_drawn_than_enter_the_loss(train, tokenizer):
    rollout = make_rollout(tokenizer, k=2, num_samples=5)
    _, result = train(rollout, "dpo", every=1)
    assert (result.steps["responses"] == 8).all()
    made = rollout.groups(rollout_model := train(rollout, every=1)[0], [Visit(0, 0)])
    drawn = rollout.draw(rollout_model, [Visit(0, 0)], 5)[0]
    scores = rollout.rewards([Visit(0, 0)], [drawn])[0]
    assert made[0].rewards[0] == max(scores["reward"])  # `paper`: the best and a random other
    assert made[0].pool_index[0] == scores["reward"].to_numpy().argmax()


def test_the_reference_stays_at_the_initial_weights(train, tokenizer, make_model):
    """With whole weights and with adapters that are switched off for it."""
    for lora in (None, Lora(r=2, alpha=8.0, target_modules=["q_proj", "v_proj"])):
        rollout = make_rollout(tokenizer)
        seen = []

        def keep(answers, step, seen=seen):
            seen.extend(answers)
            return token_reward(answers)

        rollout.score = keep
        _, result = train(rollout, "rpo_sqloo", every=1, lr=3e-2, lora=lora, model=make_model())
        last = seen[-12:]
        items = [(answer.prompt_ids, [answer.response_ids]) for answer in last]
        reference = sum(row[0] for row in response_logps(make_model(), tokenizer, items, 999)) / 12
        step = result.steps.iloc[-1]
        assert step["logp"] - step["log_ratio"] == pytest.approx(reference, abs=1e-3)
        assert abs(step["log_ratio"]) > 1e-2
        assert result.steps["log_ratio"].iloc[0] == pytest.approx(0, abs=1e-4)


def test_another_reference_may_be_given(train, tokenizer, make_model):
    other = make_model(3)
    _, result = train(make_rollout(tokenizer), every=1, reference=other)
    assert abs(result.steps["log_ratio"].iloc[0]) > 0.1


def test_online_learns_what_is_rewarded(train, tokenizer):
    """Short answers are rewarded, and answers become short."""
    rollout = make_rollout(
        tokenizer, k=4, score=lambda answers, step: rewarded(-0.5 * token_lengths(answers), answers)
    )
    _, result = train(rollout, every=1, epochs=20.0, lr=3e-3, checkpoint_every=100)
    steps = result.steps
    assert steps["reward"].iloc[:5].mean() == pytest.approx(
        -0.5 * steps["length"].iloc[:5].mean(), rel=1e-5
    )
    assert steps["length"].iloc[-5:].mean() < 0.7 * steps["length"].iloc[:5].mean()


def token_lengths(answers):
    return torch.tensor([float(len(answer.response_ids)) for answer in answers]).numpy()


def test_empty_responses_are_told_and_an_immediate_end_is_a_response(train, stored):
    eos = 2
    short = [replace(group, ref_logps=None, response_ids=[[eos]] * 2, rewards=[1.0, 0.0],
                     pool_index=[0, 1]) for group in stored]  # fmt: skip
    _, result = train(Replay(short), every=1)
    assert (result.steps["length"] == 1).all()
    broken = [replace(group, response_ids=[[], [eos]]) for group in short]
    with pytest.raises(DataError, match=r"'p.*' has an empty prompt or response"):
        train(Replay(broken), every=1)


def test_a_reward_that_fails_ends_the_training_and_leaves_no_checkpoint_behind_it(train, tokenizer):
    calls = []

    def dies(answers, step):
        calls.append(len(answers))
        if len(calls) == 3:
            raise ConnectionError("the scorer is gone")
        return token_reward(answers)

    with pytest.raises(ConnectionError, match="the scorer is gone"):
        train(make_rollout(tokenizer, score=dies), every=1)
    assert calls == [12, 12, 12]


def test_rewards_that_are_not_finite_are_told(train, tokenizer):
    rollout = make_rollout(
        tokenizer, score=lambda answers, step: rewarded([math.nan] * len(answers), answers)
    )
    with pytest.raises(DataError, match="score that is not finite"):
        train(rollout, every=1)


def test_weights_blown_up_are_a_divergence(train, tokenizer):
    _, result = train(make_rollout(tokenizer), every=1, lr=1e30, max_grad_norm=None)
    assert result.divergence is not None
    assert result.divergence.step == 2
    assert result.checkpoints == []


def test_a_curve_changes_nothing_and_begins_at_the_start(train, tokenizer):
    measured = []

    def measure(policy):
        assert not policy.training
        assert not torch.is_grad_enabled()
        probe = make_rollout(tokenizer, count=3)
        lengths = [len(ids) for g in probe.groups(policy, [Visit(i, 0) for i in range(3)])
                   for ids in g.response_ids]  # fmt: skip
        measured.append(weights_digest(policy))
        return {"length": sum(lengths) / len(lengths)}

    plain, _ = train(make_rollout(tokenizer), every=1)
    watched, result = train(make_rollout(tokenizer), every=1, curve=Curve(2, measure))
    assert weights_digest(plain) == weights_digest(watched) == measured[-1]
    assert result.curve["step"].tolist() == [0, 2, 3]
    assert len(set(measured)) == 3
