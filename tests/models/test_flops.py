"""Counted operations, against a count of the matrix products that torch makes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from ablate.models.flops import Work, forward_flops, group_work, training_flops
from ablate.models.memory import Shape
from ablate.models.packing import Packing, text_rows
from ablate.models.sharing import attention
from ablate.trl_compat.fused_head import gathering, token_logits

CONFIG = LlamaConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=80, tie_word_embeddings=True, pad_token_id=0,
)  # fmt: skip


@pytest.mark.parametrize("shared", [True, False])
def test_linear_layers_and_head_are_what_torch_counts(shared):
    """Attention left out on both sides: torch counts it whole, masked places included."""
    model = LlamaForCausalLM(CONFIG).eval()
    texts = [([5] * 11, [6] * length) for length in (4, 1, 9)]
    rows = text_rows(texts, [0, 0, 0], 0, Packing(0.0) if shared else None)
    mask = attention(model, rows) if shared else None
    with FlopCounterMode(display=False) as counter, gathering(model), torch.no_grad():
        token_logits(model, rows, mask)
    counts = counter.get_flop_counts()["Global"]
    linear = sum(count for name, count in counts.items() if "attention" not in str(name))
    work = group_work(11, [4, 1, 9], shared)
    shape = Shape.of(CONFIG.to_dict())
    ours = forward_flops(shape, Work(work.tokens, 0, work.predicted))
    # padded rows work on padding too
    if not shared:
        ours += forward_flops(shape, Work(3 * 19 - work.tokens, 0, 0))
    # transformers multiplies positions by frequencies: half a head's width each
    rotary = 2 * (CONFIG.head_dim // 2) * rows["input_ids"].numel()
    assert linear - ours in (0, rotary, rotary // rows["input_ids"].shape[0])
    assert training_flops(shape, work) == 3 * forward_flops(shape, work)


def test_pairs_of_queries_and_keys_by_hand():
    """Prompt of 3, responses of 3 and 1 tokens, whose last tokens are no inputs."""
    together, alone = group_work(3, [3, 1]), group_work(3, [3, 1], shared=False)
    assert together == Work(tokens=5, pairs=6 + (4 + 5), predicted=4)
    assert alone == Work(tokens=8, pairs=2 * 6 + (4 + 5), predicted=4)
    assert together + alone == Work(13, 36, 8)
