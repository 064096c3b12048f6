"""Online sqloo at eta=1 is RLOO with the KL in the reward: against TRL's real RLOOTrainer.

arXiv 2502.00203: with samples from the policy held fixed, the scale of response k is
∂loss/∂log π(y_k) = -βK/(K-1) times its RLOO advantage.
"""

import pytest
import torch
from datasets import Dataset
from rollouts import Replay
from transformers import TrainerCallback
from trl import RLOOConfig, RLOOTrainer

from ablate.groups import PromptGroup
from ablate.objectives import make_objective, response_scales
from ablate.training.budget import Budget
from ablate.training.groups import Group
from ablate.training.online import FreshGroups, OnlineGroups
from ablate.training.rpo import RPOTrainer
from ablate.trl_compat.arguments import Optimisation, common_arguments
from ablate.trl_compat.quiet import QuietTrainer, quiet

BETA, K = 0.3, 4
PROMPTS = ["a b", "c", "d e f", "g h a b"]


def reward(completion_ids, **others):
    """Depends on the tokens alone; of the size of the KL term, so that neither hides the other."""
    return [0.4 * len(set(ids)) - 0.05 * sum(ids) + 0.3 * (ids[0] % 3) for ids in completion_ids]


class Recorded(QuietTrainer, RLOOTrainer):
    """TRL's trainer; it only keeps what it generated, and the gradient of its loss."""

    samples = None
    gradient = None

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.samples = {name: value.clone() for name, value in output.items()}
        return output

    def training_step(self, *args):
        loss = super().training_step(*args)
        parameters = self.model.named_parameters()
        self.gradient = {name: value.grad.clone() for name, value in parameters}
        return loss


@pytest.fixture
def rloo(make_model, tokenizer, tmp_path):
    """One step of RLOO: (samples with TRL's advantages, gradient of TRL's loss)."""
    folder = tmp_path / "reference"
    make_model(0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with quiet():
        arguments = RLOOConfig(
            output_dir=str(tmp_path / "out"), seed=1, max_steps=1, learning_rate=1e-4,
            per_device_train_batch_size=K * len(PROMPTS), num_generations=K, beta=BETA,
            temperature=1.0, max_completion_length=6, normalize_advantages=False,
            reward_clip_range=None, max_grad_norm=0.0, use_cpu=True, bf16=False, report_to="none",
            save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = Recorded(
            model=str(folder), reward_funcs=reward, args=arguments, processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        )  # fmt: skip
        # the policy has left the reference, which the trainer loaded beside it
        trainer.model.load_state_dict(make_model(1).state_dict())
        trainer.train()
    return trainer.samples, trainer.gradient


def sampled(samples):
    """(prompt ids, completion ids) per sample, without padding."""
    rows = zip(
        samples["prompt_ids"], samples["prompt_mask"].bool(),
        samples["completion_ids"], samples["completion_mask"].bool(), strict=True,
    )  # fmt: skip
    return [(prompt[left].tolist(), ids[right].tolist()) for prompt, left, ids, right in rows]


def test_the_online_scale_of_sqloo_is_trls_rloo_advantage(rloo, make_model, plain_logps):
    samples, gradient = rloo
    rows = sampled(samples)
    assert len(rows) == K * len(PROMPTS)
    assert all(len({tuple(p) for p, _ in rows[i : i + K]}) == 1 for i in range(0, len(rows), K))
    policy, reference = make_model(1), make_model(0)
    logps = torch.stack([plain_logps(policy, *row).sum() for row in rows]).view(-1, K)
    with torch.no_grad():
        ref = torch.stack([plain_logps(reference, *row).sum() for row in rows]).view(-1, K)
    rewards = torch.tensor(reward([ids for _, ids in rows]), dtype=torch.float64).view(-1, K)
    group = PromptGroup(policy_logps=logps, ref_logps=ref, rewards=rewards)

    objective = make_objective("rpo_sqloo", beta=BETA, eta=1.0)
    # scales are those of the mean over prompts
    scales = len(PROMPTS) * response_scales(objective, group)
    advantages = samples["advantages"].double().view(-1, K)
    assert torch.allclose(scales, -BETA * K / (K - 1) * advantages, atol=1e-5)

    # the KL and the rewards both count here, so that the agreement says something
    assert advantages.std() > 0.1
    without_kl = rewards - (rewards.sum(1, keepdim=True) - rewards) / (K - 1)
    assert (advantages - without_kl).abs().max() > 0.1

    # and so the gradients: TRL averages over samples, we over prompts
    objective(group).loss.backward()
    factor = BETA * K**2 / (K - 1)
    largest = max(float(value.abs().max()) for value in gradient.values())
    for name, value in policy.named_parameters():
        assert torch.allclose(value.grad, factor * gradient[name], atol=1e-4 * factor * largest), (
            name
        )


class FirstGradient(TrainerCallback):
    """Keeps the gradient of the first step."""

    values = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        parameters = model.named_parameters()
        self.values = {name: value.grad.clone() for name, value in parameters}


@pytest.mark.parametrize("micro", [None, 1])
def test_an_online_step_of_our_trainer_has_trls_gradient(
    rloo, make_model, tokenizer, tmp_path, micro
):
    """The samples that TRL drew, through our source, reference and trainer: βK²/(K-1) times."""
    samples, gradient = rloo
    rows = sampled(samples)
    groups = [
        Group(
            prompt_id=str(start),
            prompt_ids=rows[start][0],
            response_ids=[ids for _, ids in rows[start : start + K]],
            rewards=reward([ids for _, ids in rows[start : start + K]]),
            pool_index=list(range(K)),
        )
        for start in range(0, len(rows), K)
    ]
    objective = make_objective("rpo_sqloo", beta=BETA, eta=1.0)
    count, policy = len(groups), make_model(1)
    source = OnlineGroups(
        FreshGroups(count, 1, Replay(groups)), list(range(count)), count, objective,
        make_model(0), tokenizer,
    )  # fmt: skip
    optimisation = Optimisation(
        lr=1e-4, schedule="constant", warmup_steps=0, batch_size=count, micro_batch_size=micro,
        weight_decay=0.0, max_grad_norm=None,
    )  # fmt: skip
    keeper = FirstGradient()
    with quiet():
        arguments = common_arguments(
            optimisation, output_dir=str(tmp_path / "ours"), seed=0, max_steps=1, model=policy,
            mixed_bf16=False,
        )  # fmt: skip
        trainer = RPOTrainer(
            policy, arguments, objective=objective, source=source, num_positions=count,
            budget=Budget(10_000, micro, found=False),
            tokenizer=tokenizer, callbacks=[keeper],
        )  # fmt: skip
        trainer.train()
        trainer.release()
    factor = BETA * K**2 / (K - 1)
    largest = max(float(value.abs().max()) for value in gradient.values())
    assert keeper.values.keys() == gradient.keys()
    for name, value in keeper.values.items():
        assert torch.allclose(value, factor * gradient[name], atol=1e-4 * factor * largest), name


def test_the_target_scale_eta_is_where_they_part(rloo, make_model, plain_logps):
    """At another eta the scale is no multiple of TRL's advantage: the relation can fail."""
    samples, _ = rloo
    rows = sampled(samples)
    with torch.no_grad():
        logps, ref = (
            torch.stack([plain_logps(make_model(seed), *row).sum() for row in rows]).view(-1, K)
            for seed in (1, 0)
        )
    rewards = torch.tensor(reward([ids for _, ids in rows]), dtype=torch.float64).view(-1, K)
    group = PromptGroup(policy_logps=logps, ref_logps=ref, rewards=rewards)
    scales = response_scales(make_objective("rpo_sqloo", beta=BETA, eta=2.0), group).flatten()
    advantages = samples["advantages"].double()
    cosine = torch.cosine_similarity(scales, -advantages, dim=0)
    assert cosine < 0.999
