"""The memory estimates in the level files are computed, and the sums are those of known sizes."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from ablate.config.levels import conf_dir, read_level
from ablate.models.loading import must_spread
from ablate.models.memory import GIB, Shape, estimate

LLAMA = {"vocab_size": 128256, "num_key_value_heads": 8, "tie_word_embeddings": False}
#: as the models' own config.json has them
CONFIGS = {
    "qwen2.5_0.5b": Qwen2Config(
        vocab_size=151936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, intermediate_size=4864, tie_word_embeddings=True,
    ),
    "qwen3_1.7b": Qwen3Config(
        vocab_size=151936, hidden_size=2048, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, intermediate_size=6144, tie_word_embeddings=True,
    ),
    "llama3.1_8b": LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=14336,
        **LLAMA,
    ),
    "llama3.1_70b": LlamaConfig(
        hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, intermediate_size=28672,
        **LLAMA,
    ),
}  # fmt: skip
WEIGHTS = {
    "qwen2.5_0.5b": 494_032_768,
    "qwen3_1.7b": 1_720_574_976,
    "llama3.1_8b": 8_030_261_248,
    "llama3.1_70b": 70_553_706_496,
}


def model_of(name):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(CONFIGS[name])


def shape_of(name):
    config, model = CONFIGS[name], model_of(name)
    return Shape(
        hidden=config.hidden_size, layers=config.num_hidden_layers,
        heads=config.num_attention_heads, kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,  # noqa: E501
        intermediate=config.intermediate_size, vocabulary=config.vocab_size,
        weights=sum(value.numel() for value in model.parameters()),
        tied=config.tie_word_embeddings,
    )  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_the_comments_of_the_levels_are_the_estimates(name):
    shape = shape_of(name)
    assert shape.weights == WEIGHTS[name]
    for level in (name, f"{name}_lora"):
        values = read_level("base_model", level)
        found = estimate(
            shape, rank=values["lora"] and values["lora"]["r"], processes=values["processes"],
            fsdp=values["fsdp"], micro_batch_size=values["micro_batch_size"],
            checkpointing=values["gradient_checkpointing"],
        )  # fmt: skip
        assert str(found) in (conf_dir() / "base_model" / f"{level}.yaml").read_text(), found
        assert found.total < 0.8 * 80e9, "fits a GPU of 80 GB with a fifth to spare"


def test_adapters_are_counted_as_peft_makes_them():
    from peft import LoraConfig, get_peft_model

    for name in CONFIGS:
        config = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        with torch.device("meta"):
            adapted = get_peft_model(model_of(name), config)
        trained = sum(value.numel() for value in adapted.parameters() if value.requires_grad)
        assert shape_of(name).adapter_weights(16) == trained


def test_the_parts_of_an_estimate_by_hand():
    shape = shape_of("llama3.1_8b")
    plain = {"micro_batch_size": 1, "checkpointing": True}
    alone = estimate(shape, rank=None, processes=1, fsdp=False, **plain)
    assert alone.states == 16 * 8_030_261_248
    assert alone.working == 2 * 8_030_261_248
    copies = estimate(shape, rank=None, processes=2, fsdp=False, **plain)
    assert copies.states == alone.states
    assert copies.working - alone.working == 4 * 8_030_261_248
    shards = estimate(shape, rank=None, processes=8, fsdp=True, **plain)
    assert shards.states == alone.states // 8
    longer = estimate(shape, rank=None, processes=1, fsdp=False, micro_batch_size=2,
                      checkpointing=True)  # fmt: skip
    assert longer.activations == 2 * alone.activations
    assert str(alone).startswith(f"{alone.total / GIB:.1f} GiB")


def test_models_are_spread_only_where_one_gpu_cannot_hold_them():
    assert must_spread(2 * WEIGHTS["llama3.1_70b"], 80 * GIB, gpus=8)
    assert not must_spread(2 * WEIGHTS["llama3.1_8b"], 80 * GIB, gpus=8)
    assert not must_spread(2 * WEIGHTS["llama3.1_70b"], 80 * GIB, gpus=1), "nowhere to spread to"
