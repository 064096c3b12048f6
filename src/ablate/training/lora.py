"""Low-rank adapters: their peft configuration, and weights with adapters merged in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ablate.config.model import Lora


def lora_config(lora: Lora) -> Any:
    """The peft configuration of a `base_model.lora` node."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        # TRL switches every dropout off in preference training: it would blur log-ratios
        lora_dropout=0.0,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def merged_state_dict(model: Any, keep: bool = True) -> dict[str, torch.Tensor]:
    """Weights of the base model with every adapter added, by the base model's own names.

    The adapted model is left untouched: merging in place and taking the adapter out again would
    round the base weights. Sharded weights are gathered, so every process must call this; those
    that do not `keep` the result get an empty one and hold no more than a tensor at a time.
    """
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    merged: dict[str, torch.Tensor] = {}
    adapted = {
        name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)
    }
    # gathered from shards, a tied weight would come once under each of its names
    own = {name for name, _ in (*base.named_parameters(), *base.named_buffers())}
    for name, value in base.state_dict().items():
        if name not in own:
            continue
        owner = next((prefix for prefix in adapted if name.startswith(f"{prefix}.")), None)
        if owner is None:
            _add(merged, name, value, keep)
            continue
        inner = name.removeprefix(f"{owner}.")
        if not inner.startswith("base_layer."):
            continue
        tensor = value
        if inner == "base_layer.weight":
            for adapter in adapted[owner].active_adapters:
                delta: Any = adapted[owner].get_delta_weight(adapter)
                tensor = (tensor.float() + delta.float()).to(value.dtype)
        _add(merged, f"{owner}.{inner.removeprefix('base_layer.')}", tensor, keep)
    return merged


def merge(model: Any) -> None:
    """Adds the adapters to the base model's weights, in place, and takes them out of it."""
    weights = merged_state_dict(model)
    base = model.unload()
    base.load_state_dict(weights, strict=False)
    base.requires_grad_(True)


@contextmanager
def without_adapters(model: Any) -> Iterator[Any]:
    """Within: the model as it was before its adapters (one copy of the weights serves both)."""
    inner = getattr(model, "module", model)
    with inner.disable_adapter(), torch.no_grad():
        yield inner


def save_adapters(model: Any, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Write adapters alone, as `peft.PeftModel.from_pretrained` reads them."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    model.peft_config["default"].save_pretrained(str(folder))


def adapter_state_dict(model: Any, keep: bool = True) -> dict[str, torch.Tensor]:
    """The adapters' weights by the names in their file; sharded ones are gathered by all."""
    from peft import get_peft_model_state_dict

    state: dict[str, torch.Tensor] = {}
    for name, value in get_peft_model_state_dict(model, save_embedding_layers=False).items():
        _add(state, name, value.detach(), keep)
    return {name: value.contiguous() for name, value in state.items()}


def _add(weights: dict[str, torch.Tensor], name: str, value: Any, keep: bool) -> None:
    """Puts a whole tensor under its name; one that is sharded is gathered by all processes."""
    whole = value.full_tensor().cpu() if hasattr(value, "full_tensor") else value
    if keep:
        weights[name] = whole
