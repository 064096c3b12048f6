"""A policy with adapters and its reference on one copy of the base weights."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

#: folder of the adapters alone, in a model folder of merged weights
ADAPTER = "adapter"


class AdaptersOff:
    """A model as it was before its adapters, as a model of its own that holds no weights.

    Works where a model is called, moved to evaluation mode and asked for its device.
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

    def get_base_model(self) -> Any:
        """The transformers model inside, which both share."""
        return self.adapted.get_base_model()

    def train(self, mode: bool = True) -> "AdaptersOff":
        self.adapted.train(mode)
        return self

    def eval(self) -> "AdaptersOff":
        self.adapted.eval()
        return self

    def __call__(self, **inputs: Any) -> Any:
        with self.adapted.disable_adapter():
            return self.adapted(**inputs)


@contextlib.contextmanager
def plain(model: Any) -> Iterator[Any]:
    """The model itself; of `AdaptersOff` the adapted one, whose adapters are off meanwhile.

    For code that reaches into a model's parts and not only calls it.
    """
    if not isinstance(model, AdaptersOff):
        yield model
        return
    with model.adapted.disable_adapter():
        yield model.adapted


def load_adapted(base: PreTrainedModel, checkpoint: Path) -> Any:
    """The policy of a checkpoint on the base model that its adapters were trained on.

    Args:
        checkpoint: a model folder with its adapters in `adapter`.
    """
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(checkpoint / ADAPTER)).eval()
