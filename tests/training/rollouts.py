"""Rollouts for tests: stored groups in place of draws, and draws that are kept."""

import numpy as np
import torch

from ablate.config.dataset import Sampling
from ablate.config.sampler import TransformersSampler
from ablate.config.selection import NumResponses
from ablate.datasets import Prompt
from ablate.rewards.table import RewardTable
from ablate.sampling.responses import Count
from ablate.stages.rollout import PolicyRollout


class Replay:
    """Stands for a sampler that always returns what is stored."""

    def __init__(self, groups):
        self.stored, self.count = groups, Count()

    def groups(self, policy, visits):
        return [self.stored[visit.prompt] for visit in visits]

    def single(self, model, visits):
        raise AssertionError("no objective here asks for it")


class Kept(PolicyRollout):
    """Draws from the policy, and remembers what it drew and in which state the policy was."""

    def __init__(self, *args, **others):
        super().__init__(*args, **others)
        self.drawn, self.states = [], []

    def groups(self, policy, visits):
        made = super().groups(policy, visits)
        self.states.append((policy.training, torch.is_grad_enabled()))
        self.drawn += [
            (visit.prompt, visit.number, index, ids)
            for visit, group in zip(visits, made, strict=True)
            for index, ids in sorted(zip(group.pool_index, group.response_ids, strict=True))
        ]
        return made


def rewarded(values, answers):
    """What a training reward with these values would return."""
    values = np.asarray(values, dtype=np.float64)
    return RewardTable(np.array([answer.prompt_id for answer in answers]), values, values)


def token_reward(answers, step=0):
    """A reward of the token ids alone."""
    values = [len(set(a.response_ids)) - 0.1 * sum(a.response_ids) for a in answers]
    return rewarded(values, answers)


def make_rollout(tokenizer, count=12, k=3, num_samples=None, score=token_reward, **sampling):
    words = "abcdefgh"
    prompts = [
        Prompt(f"p{i}", "train", " ".join(words[(i * 3 + j) % 8] for j in range(1 + i % 4)))
        for i in range(count)
    ]
    wanted = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 6, **sampling}
    return Kept(
        tokenizer, prompts, score, num_responses=NumResponses(k=k, select="paper"),
        sampler=TransformersSampler(kind="transformers", name="transformers", batch_size=256),
        num_samples=num_samples or k, sampling=Sampling(**wanted), seed=7,
    )  # fmt: skip
