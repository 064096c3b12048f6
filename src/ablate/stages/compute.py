"""Computing one stage in this process: machine set up, generators isolated, errors named."""

import os
import traceback
from collections.abc import Callable

from ablate.config.run import RunConfig
from ablate.errors import AblateError, ConfigError, StageFailed
from ablate.stages.context import Context, isolated_generators
from ablate.stages.cores import threads_each
from ablate.stages.graph import Stage
from ablate.stages.registry import KINDS
from ablate.store.files import disk_trouble


def compute_here(stage: Stage, context: Context) -> None:
    """Does the stage's work in this process.

    Raises:
        StageFailed: names the stage and why it failed; other AblateErrors pass through.
    """
    work: Callable[[Context], None] = KINDS[stage.name].load()
    try:
        with isolated_generators(int(stage.identity[:8], 16)):
            work(context)
    except AblateError:
        raise
    except Exception as error:
        trouble = disk_trouble(error)
        if trouble is not None:
            where = f"{trouble} (results folder {context.run.results_dir})"
            raise StageFailed(f"the stage '{stage.title}' could not be written: {where}") from error
        failure = StageFailed(f"the stage '{stage.title}' failed: {_cause(error)}")
        failure.add_note(traceback.format_exc())
        raise failure from error


#: accelerate's own variables: FSDP2, a unit per transformer layer, gathered again for backward
SHARDING = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def share_weights(stage: Stage) -> None:
    """Has the policy's trainer shard weights, gradients and moments, if the run asks for it."""
    if not stage.run.runtime.fsdp:
        return
    for name in SHARDING:
        os.environ.pop(name, None)
    if stage.name == "policy":
        os.environ.update(SHARDING)


def check_sharding(run: RunConfig) -> None:
    """Refuses to shard without GPUs.

    Raises:
        ConfigError: there is none: accelerate would train unsharded copies without a word.
    """
    import torch

    if run.runtime.fsdp and (run.runtime.device == "cpu" or not torch.cuda.is_available()):
        raise ConfigError(
            "runtime.fsdp=true shards a model over GPUs, and there are none here: on CPU, "
            "accelerate would train whole copies (DDP) without a word. Use runtime.fsdp=false"
        )


def prepare_machine(run: RunConfig, sharers: int = 1) -> None:
    """Sets threads and determinism of this process as the run asks (idempotent).

    Args:
        sharers: processes among which the run's threads are divided.
    """
    import torch

    if run.runtime.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.device=cuda, but this torch sees no GPU. Use runtime.device=auto, or install "
            "a CUDA build of torch"
        )
    own = run.runtime.threads
    threads = threads_each(sharers) if own is None else max(1, own // sharers)
    torch.set_num_threads(threads)
    if sharers > 1:
        # accelerate would choose a number of its own where this says nothing
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if run.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def _cause(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else '(no message)'}"
