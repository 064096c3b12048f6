"""Checkpoints of a policy in training: whole model folders that exist only when complete."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ablate.models.adapted import ADAPTER
from ablate.models.loading import save_model
from ablate.training.lora import adapter_state_dict, merged_state_dict, save_adapters
from ablate.trl_compat.fused_head import base_of


def save_checkpoint(
    trainer: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype | None,
) -> None:
    """Write the policy as it stands, adapters merged and, in `adapter`, alone.

    Every process calls this; only the main one writes.

    Args:
        dtype: type in which floating-point weights are stored; None keeps theirs.
    """
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    also = None
    if hasattr(model, "get_base_model"):
        leads = trainer.is_world_process_zero()
        weights, adapters = merged_state_dict(model, leads), adapter_state_dict(model, leads)

        def also(partial: Path) -> None:
            save_adapters(model, adapters, partial / ADAPTER)
    else:
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        # gathered from shards, a tied weight comes once under each of its names
        own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        weights = {name: value for name, value in weights.items() if name in own}
    if dtype is not None:
        weights = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in weights.items()
        }
    if trainer.is_world_process_zero():
        save_model(base_of(model), tokenizer, folder, state_dict=weights, also=also)
    trainer.accelerator.wait_for_everyone()
