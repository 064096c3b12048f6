"""The arguments that every trainer here shares: nothing saved, reported or shuffled by itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ablate.errors import ConfigError


@dataclass(frozen=True)
class Optimisation:
    """What decides a trainer's updates. `batch_size` counts examples over all processes."""

    lr: float
    schedule: str
    warmup_steps: int
    batch_size: int
    micro_batch_size: int | None
    weight_decay: float
    max_grad_norm: float | None
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    gradient_checkpointing: bool = False


def world_size() -> int:
    """Number of training processes, as the launcher announces it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def sharded() -> bool:
    """Whether trainers shard models over the processes (FSDP), as accelerate is told."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def micro_batch(optimisation: Optimisation) -> tuple[int, int]:
    """Examples per forward pass and process, and forward passes per optimizer step.

    Raises:
        ConfigError: the batch does not divide into micro-batches and processes.
    """
    processes = world_size()
    batch = optimisation.batch_size
    if batch % processes:
        raise ConfigError(
            f"a batch of {batch} does not divide among {processes} processes; take a multiple of "
            f"{processes} (training.batch_size={batch})"
        )
    share = batch // processes
    micro = optimisation.micro_batch_size or share
    if share % micro:
        raise ConfigError(
            f"training.micro_batch_size={micro} does not divide the {share} examples that each of "
            f"{processes} processes has of training.batch_size={batch}"
        )
    return micro, share // micro


def fitting_micro_batch(batch_size: int, wanted: int | None) -> int | None:
    """The largest number of examples per forward pass up to `wanted` that divides each share.

    For trainings whose micro-batches are a matter of memory alone. None: the whole share at once.
    """
    if wanted is None:
        return None
    share = max(1, batch_size // world_size())
    return max(size for size in range(1, min(wanted, share) + 1) if share % size == 0)


def padded_count(count: int, optimisation: Optimisation) -> int:
    """Positions of a data loader that shows `count` examples to all processes alike.

    accelerate would make up an uneven last round from the first examples; positions beyond
    `count` are fillers instead, which collators mark and losses leave out.
    """
    processes = world_size()
    if processes == 1:
        return count
    stride = micro_batch(optimisation)[0] * processes
    return -(-count // stride) * stride


def common_arguments(
    optimisation: Optimisation,
    *,
    output_dir: str,
    seed: int,
    max_steps: int,
    model: torch.nn.Module,
    mixed_bf16: bool,
) -> dict[str, Any]:
    """Keyword arguments for SFTConfig, RewardConfig and DPOConfig.

    Data arrive in their final order, so the loader reads them one after the other; a step is
    logged every time, because the table of steps is a result.
    """
    micro, accumulation = micro_batch(optimisation)
    return {
        "output_dir": output_dir,
        "seed": seed,
        "data_seed": seed,
        "max_steps": max_steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": optimisation.lr,
        "lr_scheduler_type": optimisation.schedule,
        "warmup_steps": optimisation.warmup_steps,
        "weight_decay": optimisation.weight_decay,
        "max_grad_norm": optimisation.max_grad_norm or 0.0,
        "adam_beta1": optimisation.adam_beta1,
        "adam_beta2": optimisation.adam_beta2,
        "adam_epsilon": optimisation.adam_epsilon,
        "optim": "adamw_torch_fused",
        "bf16": mixed_bf16,
        "gradient_checkpointing": False,
        "activation_checkpointing": optimisation.gradient_checkpointing,
        "train_sampling_strategy": "sequential",
        # a model that will be sharded onto GPUs waits on the CPU
        "use_cpu": next(model.parameters()).device.type == "cpu"
        and not (sharded() and torch.cuda.is_available()),
        # every loss here reaches every weight, save those of experts that no token was sent to
        "ddp_find_unused_parameters": _has_experts(model),
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "push_to_hub": False,
    }


def _has_experts(model: torch.nn.Module) -> bool:
    config = model.config.get_text_config()
    return any(getattr(config, name, None) for name in ("num_experts", "num_local_experts"))


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Within: torch refuses kernels whose result depends on timing (GPU); restores the setting."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
