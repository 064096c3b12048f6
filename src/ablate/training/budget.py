"""How many tokens a forward pass takes: found for the device, halved where memory runs out."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from ablate.errors import ConfigError
from ablate.models.memory import activation_bytes, state_bytes

#: tokens per forward pass on a CPU: more make nothing faster there
CPU_TOKENS = 8192
#: the share of a CPU's memory, and of what is free on a GPU, that activations may take
CPU_SHARE, GPU_SHARE = 1 / 8, 0.7
#: fewer are not asked for, whatever the memory
LEAST = 256


def tokens_for(model: Any, device: torch.device, checkpointing: bool, processes: int) -> int:
    """Tokens per forward pass and process that should fit: a power of two.

    A power of two so that a little more or less free memory changes nothing. On a CPU it depends
    on the machine's memory alone, on a GPU on what is free once weights, gradients and moments
    have their place.
    """
    config = model.config.get_text_config()
    # older configs leave it out where it is four times the width
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    width = 4 if device.type == "cpu" else 2
    layers = config.num_hidden_layers
    per_token = activation_bytes(config.hidden_size, inner, layers, checkpointing, width)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        room = GPU_SHARE * (free - state_bytes(model) / processes)
        fitting = room / per_token
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        fitting = min(CPU_TOKENS, CPU_SHARE * memory / per_token)
    return max(LEAST, 2 ** (int(max(fitting, 1)).bit_length() - 1))


class Budget:
    """Tokens and prompts per forward pass.

    Args:
        tokens: padding included; a prompt with all its responses is never divided.
        prompts: at most so many, whatever their tokens; None sets no bound.
        found: whether `tokens` was found for the device, which allows to change it.
    """

    def __init__(self, tokens: int, prompts: int | None, found: bool) -> None:
        self.tokens, self.prompts, self.found = tokens, prompts, found
        self.halvings = 0
        #: prompts of the step's micro-batch that has most of them, and tokens of the largest
        self._largest = self._needed = 0

    def split(
        self, positions: Sequence[int], extent: Callable[[int], tuple[int, int]], packed: bool
    ) -> list[list[int]]:
        """Positions in their order, cut where tokens or prompts would be too many.

        Args:
            extent: rows and tokens of the longest row of one position.
            packed: whether short rows are joined; else all are padded to the longest.
        """
        parts: list[list[int]] = []
        rows = longest = tokens = self._needed = 0
        for position in positions:
            more, length = extent(position)
            widest = max(longest, length)
            tokens += more * length
            needed = tokens if packed else (rows + more) * widest
            full = bool(parts) and len(parts[-1]) == self.prompts
            if not parts or full or needed > self.tokens:
                parts.append([])
                rows, widest, tokens = 0, length, more * length
                needed = tokens
            self._needed = max(self._needed, needed)
            parts[-1].append(position)
            rows, longest = rows + more, widest
        self._largest = max((len(part) for part in parts), default=0)
        return parts

    def explain(self, error: RuntimeError) -> None:
        """Raises a ConfigError that says what to do where memory ran out; else nothing."""
        if not should_reduce_batch_size(error):
            return
        if self._largest <= 1:
            raise ConfigError(
                "memory does not suffice for one prompt with its responses. Take fewer or shorter "
                "responses, training.gradient_checkpointing=true, or adapters (base_model.lora)"
            ) from error
        raise ConfigError(
            f"memory does not suffice for training.tokens_per_device={self.tokens}. Try "
            f"training.tokens_per_device={max(1, self.tokens // 2)}"
        ) from error

    def halve(self, error: RuntimeError) -> None:
        """Takes half the tokens from now on where memory ran out; raises any other error again."""
        if not should_reduce_batch_size(error):
            raise error
        if self._largest <= 1:
            self.explain(error)
        self.tokens = max(1, self.tokens // 2)
        while self.tokens >= self._needed > 1:
            # it would be the same micro-batch once more
            self.tokens = max(1, self.tokens // 2)
        self.halvings += 1

    def state(self) -> dict[str, int]:
        """What an interrupted training must remember, and a record tells."""
        return {"tokens_per_device": self.tokens, "halvings": self.halvings}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        self.tokens, self.halvings = state["tokens_per_device"], state["halvings"]


def forget() -> None:
    """Gives the memory of a failed pass back to the device."""
    clear_device_cache(garbage_collection=True)
