"""Models: reproducible weights, complete folders, and messages that help."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from ablate.config.levels import read_level
from ablate.config.model import SFT, Architecture, BaseModelConfig
from ablate.errors import ModelError
from ablate.models.loading import (
    build_model,
    check_lengths,
    context_length,
    load_model,
    save_model,
    weights_digest,
)
from ablate.models.logps import response_logps
from ablate.models.tokenizer import build_tokenizer, load_tokenizer


def _config(**changes):
    values = {
        "name": "test",
        "kind": "scratch",
        "path": None,
        "revision": None,
        "trust_remote_code": False,
        "architecture": Architecture(
            hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32
        ),
        "context_length": 32,
        "dtype": "float32",
        "lora": None,
        "preference_lr": 1e-3,
        "preference_batch_size": 8,
        "micro_batch_size": None,
        "gradient_checkpointing": False,
        "processes": 1,
        "fsdp": False,
        "sft": SFT(steps=0, batch_size=1, lr=1e-3, warmup_steps=0, weight_decay=0.0),
    }
    return BaseModelConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["a", "b", "c"])


def test_weights_depend_on_the_seed_alone(tokenizer):
    first = build_model(_config(), tokenizer, seed=3, device="cpu")
    torch.rand(17)
    state = torch.random.get_rng_state()
    again = build_model(_config(), tokenizer, seed=3, device="cpu")
    assert weights_digest(first) == weights_digest(again)
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's generator is untouched
    other = build_model(_config(), tokenizer, seed=4, device="cpu")
    assert weights_digest(first) != weights_digest(other)


def test_embeddings_are_tied_and_the_vocabulary_is_the_tokenizers(tokenizer):
    model = build_model(_config(), tokenizer, seed=0, device="cpu")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), 16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_folder_is_the_model(tokenizer, tmp_path, dtype):
    model = build_model(_config(dtype=dtype), tokenizer, seed=0, device="cpu")
    folder = tmp_path / "model"
    save_model(model, tokenizer, folder)
    again = load_model(folder, dtype=dtype, device="cpu")
    assert weights_digest(again) == weights_digest(model) == weights_digest(folder)
    ids = torch.tensor([[1, 5, 6, 3]])
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert load_tokenizer(str(folder)).get_vocab() == tokenizer.get_vocab()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # nothing half-written
    with pytest.raises(ModelError, match="never overwritten"):
        save_model(model, tokenizer, folder)


def test_one_changed_weight_changes_the_digest(tokenizer):
    model = build_model(_config(), tokenizer, seed=0, device="cpu")
    before = weights_digest(model)
    with torch.no_grad():
        model.get_parameter("model.norm.weight")[5] += 1e-6
    assert weights_digest(model) != before


class _CtrlC:
    """A tokenizer during whose writing the user presses Ctrl-C."""

    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("half")
        raise KeyboardInterrupt


def test_interrupted_save_leaves_nothing(tokenizer, tmp_path):
    model = build_model(_config(), tokenizer, seed=0, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        save_model(model, _CtrlC(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_missing_models_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="does not exist"):
        load_model(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="hf download nobody/nothing-here"):
        load_model("nobody/nothing-here")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no \.safetensors file.*save_pretrained"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path)


def test_scratch_without_architecture_or_with_odd_heads(tokenizer):
    with pytest.raises(ModelError, match="architecture"):
        build_model(_config(architecture=None), tokenizer, seed=0)
    odd = Architecture(hidden_size=18, num_layers=1, num_heads=4, intermediate_size=8)
    with pytest.raises(ModelError, match="multiple"):
        build_model(_config(architecture=odd), tokenizer, seed=0)


@pytest.mark.parametrize("level", ["micro", "tiny", "small"])
def test_shipped_levels_build(level, tokenizer):
    config = BaseModelConfig(**read_level("base_model", level))
    model = build_model(config, tokenizer, seed=0, device="cpu")
    assert context_length(model) == config.context_length
    assert config.name == level


def test_hf_level_asks_for_a_path():
    config = BaseModelConfig(**read_level("base_model", "hf"))
    assert (config.kind, config.path, config.sft.steps) == ("hf", None, 0)


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_other_families_load_score_and_keep_their_digest(family, tokenizer, tmp_path):
    small = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2}
    if family == "gpt2":
        shape = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **small)
        model = GPT2LMHeadModel(shape)
    else:
        shape = Qwen2Config(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=32, max_position_embeddings=32, tie_word_embeddings=False, **small,
        )  # fmt: skip
        model = Qwen2ForCausalLM(shape)
    save_model(model.eval(), tokenizer, tmp_path / "m")
    again = load_model(tmp_path / "m", device="cpu")
    assert weights_digest(again) == weights_digest(model) == weights_digest(tmp_path / "m")
    assert context_length(again) == 32
    logp = response_logps(again, tokenizer, [([1, 5, 3], [[6, 7, 2]])], 64)[0][0]
    with torch.no_grad():
        table = model(torch.tensor([[1, 5, 3, 6, 7, 2]])).logits[0].double().log_softmax(-1)
    expected = table[2, 6] + table[3, 7] + table[4, 2]
    assert logp == pytest.approx(float(expected), abs=1e-4)


def test_lengths_are_checked_against_the_context(tokenizer):
    model = build_model(_config(), tokenizer, seed=0, device="cpu")
    limit = context_length(model)
    assert limit == 32
    check_lengths([32, 1], limit)
    check_lengths([], limit)
    check_lengths([10**9], None)
    with pytest.raises(ModelError, match=r"2 of 3 .*32 tokens.*number 1 with 40 tokens"):
        check_lengths([33, 40, 2], limit)
