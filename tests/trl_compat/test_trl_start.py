"""What DPOTrainer does to whole models when it starts, and that our trainer does none of it."""

import gc

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer
from trl.trainer import dpo_trainer

from ablate.models.tokenizer import build_tokenizer
from ablate.trl_compat.arguments import Optimisation, common_arguments
from ablate.trl_compat.dpo import GroupTrainer
from ablate.trl_compat.quiet import quiet

PAIRS = {"prompt_ids": [[1, 5, 3]] * 2, "chosen_ids": [[6, 2]] * 2, "rejected_ids": [[7, 2]] * 2}


@pytest.fixture
def counted(monkeypatch):
    """How often TRL hashes a model and how often it makes one."""
    counts = {"hashed": 0, "made": 0}

    def counting(name, work):
        def call(*args, **kwargs):
            counts[name] += 1
            return work(*args, **kwargs)

        return call

    for name, key in (("hash_module", "hashed"), ("create_model_from_path", "made")):
        monkeypatch.setattr(dpo_trainer, name, counting(key, getattr(dpo_trainer, name)))
    return counts


def parts(folder):
    tokenizer = build_tokenizer(list("abcdefgh"))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, tie_word_embeddings=True, pad_token_id=0,
        )
    )  # fmt: skip
    # where TRL looks for a second model
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    model.config._name_or_path = str(folder / "model")
    optimisation = Optimisation(
        lr=1e-3, schedule="constant", warmup_steps=0, batch_size=2, micro_batch_size=None,
        weight_decay=0.0, max_grad_norm=None,
    )  # fmt: skip
    arguments = common_arguments(
        optimisation, output_dir=str(folder / "out"), seed=0, max_steps=1, model=model,
        mixed_bf16=False,
    )  # fmt: skip
    return model, tokenizer, arguments


def models():
    gc.collect()
    return sum(isinstance(thing, LlamaForCausalLM) for thing in gc.get_objects())


class Tokenised(DPOTrainer):
    """TRL's trainer on token ids, everything else its own."""

    def _prepare_dataset(self, dataset, *args):
        return dataset


@pytest.mark.parametrize("precomputed", [True, False])
def test_trl_itself_hashes_the_model_or_makes_another(precomputed, counted, tmp_path):
    """So that the next test cannot pass because there is nothing to see."""
    with quiet():
        model, tokenizer, arguments = parts(tmp_path)
        before = models()
        trainer = Tokenised(
            model, args=DPOConfig(**arguments, precompute_ref_log_probs=precomputed),
            train_dataset=Dataset.from_dict(PAIRS), processing_class=tokenizer,
        )  # fmt: skip
    assert counted == {"hashed": int(precomputed), "made": int(not precomputed)}
    assert models() - before == counted["made"]
    assert (trainer.ref_model is None) == precomputed


def test_our_trainer_does_neither(counted, tmp_path):
    """Sharded models, for which TRL loads a reference even so: tests/training/test_fsdp.py."""
    with quiet():
        model, tokenizer, arguments = parts(tmp_path)
        before = models()
        trainer = GroupTrainer(model, arguments, num_positions=2, tokenizer=tokenizer, callbacks=[])
    assert counted == {"hashed": 0, "made": 0}
    assert models() == before, "one model, the policy"
    assert trainer.ref_model is None
    assert trainer.model is model
    # TRL has its own back for those who use it beside ours
    assert dpo_trainer.hash_module.__name__ == "call"
