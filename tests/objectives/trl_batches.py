"""A tiny model, its own log-probs on a batch, and how TRL's loss is held against ours."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

WORDS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]
#: what every trainer here is told beside its loss
TRAINING = {
    "report_to": [],
    "use_cpu": True,
    "per_device_train_batch_size": 6,
    "gradient_checkpointing": False,
    "bf16": False,
}


def preference_rows():
    """Six pairs whose better responses have 1 to 6 words and whose worse ones 7 to 1."""
    return [
        {
            "prompt": "ant bee",
            "chosen": " " + " ".join(WORDS[: 1 + row]),
            "rejected": " " + " ".join(reversed(WORDS[row : 7 - row // 2])),
        }
        for row in range(6)
    ]


def tiny_model(tokenizer, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def token_logps(model, batch):
    """float[rows, T-1]: log-probs of the completion's tokens at the front, zero elsewhere."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logs = logits[:, :-1].float().log_softmax(dim=-1)
    picked = logs.gather(2, batch["input_ids"][:, 1:, None])[..., 0]
    mask = batch["completion_mask"][:, 1:].bool()
    front = (~mask).int().argsort(dim=1, stable=True)
    return torch.where(mask, picked, torch.zeros_like(picked)).gather(1, front)


def assert_same_loss_and_gradient(ours, theirs, model):
    """Both scalars and their gradients in the parameters, each gradient taken on its own graph."""
    assert ours.item() == pytest.approx(theirs.item(), rel=2e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    flat = torch.cat([g.flatten() for g in torch.autograd.grad(ours, parameters)])
    other = torch.cat([g.flatten() for g in torch.autograd.grad(theirs, parameters)])
    assert other.norm() > 1e-4
    torch.testing.assert_close(flat / other.norm(), other / other.norm(), rtol=0, atol=1e-5)
