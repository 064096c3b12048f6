"""A tiny real model, its tokenizer, and ragged groups with ties."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ablate.config.levels import read_level
from ablate.config.training import TrainingConfig
from ablate.models.tokenizer import build_tokenizer
from ablate.training.groups import Group

WORDS = list("abcdefgh")


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer(WORDS)


@pytest.fixture
def make_model(tokenizer):
    """A model with distinct, untrained weights per seed."""

    def make(seed=0, dtype=torch.float32):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, intermediate_size=32, max_position_embeddings=32,
            tie_word_embeddings=True, initializer_range=0.2,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        return LlamaForCausalLM(config).to(dtype).eval()

    return make


@pytest.fixture
def make_groups(tokenizer):
    """Groups of 2 to `k` responses; every fourth prompt has nothing but ties."""

    def make(count=12, k=3, ragged=True, seed=0):
        rng = np.random.default_rng(seed)
        letters = range(5, len(tokenizer))
        groups = []
        for number in range(count):
            width = int(rng.integers(2, k + 1)) if ragged else k
            responses = [
                [*map(int, rng.choice(letters, rng.integers(1, 7))), 2] for _ in range(width)
            ]
            rewards = rng.normal(size=width).round(3).tolist()
            groups.append(
                Group(
                    prompt_id=f"p{number}",
                    prompt_ids=[1, *map(int, rng.choice(letters, rng.integers(1, 5))), 3],
                    response_ids=responses,
                    ref_logps=(-rng.uniform(3, 20, width)).tolist(),
                    rewards=[1.0] * width if number % 4 == 3 else rewards,
                    pool_index=list(range(width)),
                )
            )
        return groups

    return make


@pytest.fixture
def with_everything(tokenizer):
    """The same groups with all that any objective may read beside rewards and log-probs."""

    def add(groups, seed=0):
        rng = np.random.default_rng([seed, 1])
        letters = range(5, len(tokenizer))

        def text(longest=6):
            return list(map(int, rng.choice(letters, rng.integers(1, longest + 1))))

        def per_token(group):
            return [rng.random(len(ids)).tolist() for ids in group.response_ids]

        full = []
        for group in groups:
            strength = rng.normal(size=len(group.response_ids))
            wins = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
            full.append(
                replace(
                    group,
                    prev_logps=(-rng.uniform(3, 20, len(strength))).tolist(),
                    win_probs=wins.tolist(),
                    extra_rewards=rng.normal(size=(len(strength), 1)).tolist(),
                    token_weights=per_token(group),
                    token_kl_weights=per_token(group),
                    gold_ids=[*text(), 2],
                    rationale_prompt_ids=[1, *text(), 3],
                    rationale_ids=[*text(), 2],
                    sample_ids=[*text(), 2],
                )
            )
        return full

    return add


#: what the level takes from the base model
SIZES = {"batch_size": 64, "micro_batch_size": None, "gradient_checkpointing": False}


@pytest.fixture
def make_training():
    """The default level with a few values replaced."""

    def make(**changes):
        values = read_level("training", "default")
        return TrainingConfig(**{**values, "lr": 1e-3, **SIZES, **changes})

    return make


@pytest.fixture
def plain_logps():
    """float64 log-probability of one response, by one unpadded forward pass, with its graph."""

    def logp(model, prompt, response):
        table = model(torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
        places = torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
        return table[places, torch.tensor(response)]

    return logp
