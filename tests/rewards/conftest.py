"""Tiny real reward models and the answers they score."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ablate.models.loading import save_model
from ablate.models.tokenizer import build_tokenizer
from ablate.rewards.table import Answer

WORDS = ["rock", "paper", "scissors", "play", "now", "yes", "no", "ok"]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer(WORDS)


@pytest.fixture(scope="session")
def start(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained causal model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=64, max_position_embeddings=32,
        initializer_range=0.2, pad_token_id=tokenizer.pad_token_id, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("start") / "model"
    save_model(LlamaForCausalLM(config), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def answer(tokenizer: Any) -> Callable[..., Answer]:
    """An answer of words to a prompt of words."""
    from ablate.models.tokenizer import encode_prompt, encode_response

    def make(prompt: str, response: str, index: int | None = None) -> Answer:
        return Answer(
            f"id of {prompt}",
            prompt,
            encode_prompt(tokenizer, prompt),
            response,
            encode_response(tokenizer, response),
            index,
        )

    return make
