"""A policy with adapters and its reference on one copy of the base weights."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

#: folder of the adapters alone, in a model folder of merged weights
ADAPTER = "adapter"


class AdaptersOff:
    """A model as it was before its adapters, as a model of its own that holds no weights.

    Works where a model is called, moved to evaluation mode, and asked for its device or shape.
    """

    def __init__(self, adapted: Any) -> None:
        self.adapted = adapted

    @property
    def device(self) -> torch.device:
        return torch.device(self.adapted.device)

    @property
    def config(self) -> Any:
        return self.adapted.config

    @property
    def training(self) -> bool:
        return bool(self.adapted.training)

    def train(self, mode: bool = True) -> "AdaptersOff":
        self.adapted.train(mode)
        return self

    def eval(self) -> "AdaptersOff":
        self.adapted.eval()
        return self

    def __call__(self, **inputs: Any) -> Any:
        with self.adapted.disable_adapter():
            return self.adapted(**inputs)


def load_adapted(base: PreTrainedModel, checkpoint: Path) -> Any:
    """The policy of a checkpoint on the base model that its adapters were trained on.

    Args:
        checkpoint: a model folder with its adapters in `adapter`.
    """
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(checkpoint / ADAPTER)).eval()
