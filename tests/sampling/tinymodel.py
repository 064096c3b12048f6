"""A tiny model with random weights and a tokenizer of three words, for tests of sampling."""

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ablate.config.dataset import Sampling
from ablate.models.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer(list("abc"))
EOS = TOKENIZER.eos_token_id
PLAIN = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=5)
PROMPTS = [("p0", [1, 5, 3]), ("p1", [1, 6, 7, 5, 3]), ("p2", [1, 3]), ("p3", [1, 7, 7, 3])]


def tiny(family="llama", **changes):
    """A causal model whose distributions are far from uniform."""
    torch.manual_seed(0)
    small = {"vocab_size": len(TOKENIZER), "bos_token_id": 1, "eos_token_id": EOS}
    if family == "gpt2":
        shape = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16, **small)
        return GPT2LMHeadModel(shape).eval()
    shape = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 32, "max_position_embeddings": 16,
        "initializer_range": 0.4, **small, **changes,
    }  # fmt: skip
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shape)).eval()
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


def next_token_logits(model, ids):
    """float64[V] after a sequence, by a plain forward pass."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].double()
