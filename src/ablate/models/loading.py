"""Language models: built from scratch, loaded from disk, written to disk, told apart by digest."""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ablate.config.model import BaseModelConfig
from ablate.errors import ModelError
from ablate.models.missing import check_safetensors, offline_help
from ablate.models.tokenizer import save_tokenizer, stop_token_ids
from ablate.store import crash
from ablate.trl_compat.arguments import sharded, world_size
from ablate.trl_compat.quiet import quiet


def resolve_device(device: str) -> torch.device:
    """`auto` is this process's GPU where there is one, else the CPU.

    Where trainers shard models, `auto` is the CPU: whole models are sharded onto GPUs from there.
    """
    if device != "auto":
        return torch.device(device)
    if sharded() or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU, where bfloat16 is slow.

    A model that waits on the CPU to be sharded onto GPUs counts as one on a GPU.
    """
    if dtype == "auto":
        on_gpu = device.type != "cpu" or (sharded() and torch.cuda.is_available())
        return torch.bfloat16 if on_gpu else torch.float32
    found: torch.dtype = getattr(torch, dtype)
    return found


def build_model(
    config: BaseModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int, device: str = "auto"
) -> PreTrainedModel:
    """A LLaMA-style causal model with random weights and tied embeddings.

    The weights depend on `config.architecture`, the vocabulary's size and `seed` alone; the
    caller's generators are left as they were.

    Raises:
        ModelError: no architecture given, or a width that the heads do not divide.
    """
    shape = config.architecture
    if shape is None or config.context_length is None:
        raise ModelError(
            f"base_model={config.name} has kind: scratch and needs `architecture` and "
            "`context_length`; set both, or kind: hf and a path"
        )
    if shape.hidden_size % (2 * shape.num_heads):
        raise ModelError(
            f"base_model.architecture: hidden_size {shape.hidden_size} must be a multiple of "
            f"2 x num_heads ({2 * shape.num_heads})"
        )
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attn_implementation="sdpa",
        # 1/sqrt(width): the usual 0.02 is made for widths of thousands and trains slowly here
        initializer_range=shape.hidden_size**-0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(llama)
    # parameters only: rotary frequencies stay float32, as they do when a folder is loaded
    place = resolve_device(device)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(resolve_dtype(config.dtype, place))
    _set_stops(model, tokenizer)
    return model.to(place).eval()


def load_model(
    path_or_id: str | Path,
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str = "auto",
) -> PreTrainedModel:
    """A causal language model from a folder or from the local cache of a hub id.

    Args:
        dtype: `auto`, `float32` or `bfloat16`.
        device: with `auto`, a model too large for one GPU is spread over all that are visible.

    Raises:
        ModelError: nothing there, no weights as safetensors, or a folder without a readable model.
    """
    path = str(path_or_id)
    _check_folder(path)
    if os.path.isdir(path):
        check_safetensors(path)
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    options: dict[str, Any] = {}
    if device == "auto" and _too_large(path, kind, place):
        options["device_map"] = "auto"
    try:
        with quiet():
            model: Any = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=kind,
                revision=revision,
                trust_remote_code=trust_remote_code,
                attn_implementation="sdpa",
                use_safetensors=True,
                **options,
            )
    except (OSError, ValueError) as error:
        raise ModelError(offline_help(path, "model", error)) from error
    return (model if options else model.to(place)).eval()


def _too_large(path: str, dtype: torch.dtype, place: torch.device) -> bool:
    if place.type != "cuda" or world_size() > 1:
        return False
    capacity = torch.cuda.get_device_properties(place).total_memory
    return must_spread(weights_bytes(path, dtype), capacity, torch.cuda.device_count())


def must_spread(weights: int, capacity: int, gpus: int) -> bool:
    """Whether weights leave too little of one GPU free (a fifth), while there are several."""
    return gpus > 1 and weights > 0.8 * capacity


def weights_bytes(path: str, dtype: torch.dtype) -> int:
    """Bytes of a folder's weights once they have that type; 0 where it holds none."""
    from safetensors import safe_open

    count = 0
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                count += math.prod(tensors.get_slice(name).get_shape())
    return count * dtype.itemsize


def _check_folder(path: str) -> None:
    # a hub id is `name` or `owner/name`
    looks_local = path.startswith(("/", ".", "~")) or path.count("/") > 1
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, "config.json")):
            raise ModelError(
                f"{path} holds no config.json, so it is no model folder; give the folder that "
                "`save_pretrained` wrote"
            )
    elif looks_local or os.path.exists(path):
        raise ModelError(f"the model folder {path} does not exist")


def _set_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    generation: Any = model.generation_config
    generation.pad_token_id = tokenizer.pad_token_id
    generation.bos_token_id = tokenizer.bos_token_id
    generation.eos_token_id = stop_token_ids(tokenizer)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    state_dict: dict[str, torch.Tensor] | None = None,
    also: Callable[[Path], None] | None = None,
) -> None:
    """Write model (safetensors) and tokenizer so that the folder exists only when complete.

    Args:
        state_dict: weights to write in place of the model's own (merged adapters, gathered shards).
        also: writes further files into the folder before it comes to be.

    Raises:
        ModelError: the folder exists already.
    """
    folder = Path(folder)
    if folder.exists():
        raise ModelError(f"{folder} exists already; models are never overwritten")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with quiet():
            model.save_pretrained(partial, state_dict=state_dict)
        save_tokenizer(tokenizer, partial)
        if also is not None:
            also(partial)
        crash.point("checkpoint-before-rename")
        partial.rename(folder)
        crash.point("checkpoint-after-rename")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def context_length(model: PreTrainedModel) -> int | None:
    """Longest sequence the model takes, in tokens; None where its config does not say."""
    text_config = model.config.get_text_config()
    limit = getattr(text_config, "max_position_embeddings", None)
    return int(limit) if limit else None


def context_of_path(path: str, revision: str | None, trust_remote_code: bool) -> int | None:
    """Longest sequence that the model of a folder or hub id takes, without loading its weights."""
    _check_folder(path)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(
                path, revision=revision, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError) as error:
        raise ModelError(offline_help(path, "model", error)) from error
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def check_lengths(lengths: Iterable[int], limit: int | None, what: str = "sequence") -> None:
    """Raise a ModelError that names the longest sequence when it exceeds the context.

    Args:
        lengths: tokens of each whole sequence (prompt and response).
        limit: the context length in tokens; None checks nothing.
    """
    if limit is None:
        return
    numbered = list(enumerate(lengths))
    if not numbered:
        return
    place, longest = max(numbered, key=lambda pair: pair[1])
    if longest > limit:
        too_long = sum(length > limit for _, length in numbered)
        raise ModelError(
            f"{too_long} of {len(numbered)} {what}s are longer than the model's context of "
            f"{limit} tokens; the longest is number {place} with {longest} tokens. Shorten or "
            "drop them, lower dataset.pool.sampling.max_new_tokens, or take a model with a longer "
            "context"
        )


def weights_digest(model_or_folder: PreTrainedModel | str | Path) -> str:
    """sha256 over names, types, shapes and bytes of all parameters; tied ones count once.

    A model and the folder it was saved to have the same digest.
    """
    digest = hashlib.sha256()
    if isinstance(model_or_folder, str | Path):
        tensors = _stored_tensors(Path(model_or_folder))
    else:
        tensors = dict(model_or_folder.named_parameters())
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _stored_tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file, so its weights have no digest")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors.update(load_file(file))
    return tensors
