"""Tiny untrained models of real families: their architecture, tokenizer type and chat template.

What a hub repository holds is built here at toy size and saved as the repository saves it. The
chat templates are the real ones, read from the installed TRL.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trl
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

TEXT = [
    "name four cities and sort them", "the answer is oslo, rome, lima and cairo",
    "what is two plus seven?", "it is nine: two and seven make nine", "list three colours",
    "red, green, blue", "why is the sky blue at noon and red in the evening?",
    "because air scatters short waves more than long ones", "<think> </think> user assistant",
]  # fmt: skip
SHAPE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "num_key_value_heads": 1, "max_position_embeddings": 512, "initializer_range": 0.3,
}  # fmt: skip
#: Llama-3.1's own, on a smaller context
ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """What tells one family from another."""

    config: Any
    #: special tokens by their place in the vocabulary, after the ordinary ones
    special: list[str]
    eos: str
    bos: str | None
    pad: str | None
    #: name of TRL's template; None: a base model without one
    template: str | None
    #: the token with which the template ends an answer
    end: str
    #: EOS tokens of generation_config.json
    stops: list[str]
    pieces: str = "byte_level"
    shape: dict[str, Any] | None = None


QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
         "<|eom_id|>", "<|eot_id|>"]  # fmt: skip
GEMMA = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]

FAMILIES = {
    "qwen2.5_instruct": Family(
        Qwen2Config, QWEN, "<|im_end|>", None, "<|endoftext|>", "qwen2_5", "<|im_end|>",
        ["<|im_end|>", "<|endoftext|>"], shape={"tie_word_embeddings": True},
    ),
    "qwen3": Family(
        Qwen3Config, QWEN, "<|im_end|>", None, "<|endoftext|>", "qwen3", "<|im_end|>",
        ["<|im_end|>", "<|endoftext|>"], shape={"tie_word_embeddings": True, "head_dim": 8},
    ),
    "llama3.1_instruct": Family(
        LlamaConfig, LLAMA, "<|eot_id|>", "<|begin_of_text|>", None, "llama3_1", "<|eot_id|>",
        ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        shape={"rope_parameters": ROPE, "tie_word_embeddings": False},
    ),
    "llama3.1_base": Family(
        LlamaConfig, LLAMA, "<|end_of_text|>", "<|begin_of_text|>", None, None, "<|end_of_text|>",
        ["<|end_of_text|>"], shape={"rope_parameters": ROPE, "tie_word_embeddings": False},
    ),
    "mistral_base": Family(
        MistralConfig, ["<unk>", "<s>", "</s>"], "</s>", "<s>", None, None, "</s>", ["</s>"],
        pieces="sentence_piece", shape={"sliding_window": None},
    ),
    "gemma_instruct": Family(
        GemmaConfig, GEMMA, "<eos>", "<bos>", "<pad>", "gemma", "<end_of_turn>",
        ["<eos>", "<end_of_turn>"], pieces="sentence_piece", shape={"head_dim": 8},
    ),
}  # fmt: skip


def template(name: str) -> str:
    """A chat template as the installed TRL ships it."""
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def build_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """A BPE trained on a few sentences, of the family's kind, with its special tokens."""
    core = Tokenizer(models.BPE(byte_fallback=family.pieces == "sentence_piece"))
    if family.pieces == "byte_level":
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        core.normalizer = normalizers.Replace(" ", "▁")
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        alphabet = []
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(TEXT, trainer)
    if family.pieces == "sentence_piece":
        # letters that were never seen are spelled in bytes, which are ordinary tokens
        learnt = json.loads(core.to_str())["model"]
        pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
        core.model = models.BPE(
            vocab={piece: place for place, piece in enumerate(pieces)},
            merges=[tuple(pair) for pair in learnt["merges"]],
            byte_fallback=True,
        )
    core.add_special_tokens([token for token in family.special if "think" not in token])
    core.add_tokens([token for token in family.special if "think" in token])
    if family.bos is not None:
        core.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, core.token_to_id(family.bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=family.eos, bos_token=family.bos, pad_token=family.pad
    )
    if family.template is not None:
        tokenizer.chat_template = template(family.template)
    return tokenizer


def build_model(family: Family, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Any:
    """The family's architecture at toy size with drawn weights."""
    ids = tokenizer.convert_tokens_to_ids(family.stops)
    config = family.config(
        vocab_size=len(tokenizer), **{**SHAPE, **(family.shape or {})},
        bos_token_id=None if family.bos is None else tokenizer.convert_tokens_to_ids(family.bos),
        eos_token_id=ids if len(ids) > 1 else ids[0],
        pad_token_id=None if family.pad is None else tokenizer.convert_tokens_to_ids(family.pad),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = ids
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.6
    model.generation_config.top_p = 0.9
    return model


def save(name: str, folder: Path, seed: int = 0) -> Path:
    """A folder like a hub repository's: bfloat16 safetensors, tokenizer, generation settings."""
    family = FAMILIES[name]
    tokenizer = build_tokenizer(family)
    build_model(family, tokenizer, seed).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "generation_config.json").read_text())["temperature"] == 0.6
    return folder
