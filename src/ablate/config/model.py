"""Configuration of the base model and of its supervised fine-tuning."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from ablate.config.base import Node


class Architecture(Node):
    """Shape of a LLaMA-style model that is built from scratch."""

    hidden_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    intermediate_size: PositiveInt


class Lora(Node):
    """Low-rank adapters (peft) trained instead of all weights."""

    r: PositiveInt
    alpha: PositiveFloat
    target_modules: list[str] | Literal["all-linear"]


class SFT(Node):
    """Supervised fine-tuning on demonstrations; `steps: 0` takes the model as it is."""

    steps: NonNegativeInt
    batch_size: PositiveInt
    lr: PositiveFloat
    warmup_steps: NonNegativeInt
    weight_decay: float = Field(ge=0)


class BaseModelConfig(Node):
    """`kind: scratch` builds `architecture` anew; `kind: hf` loads `path` (folder or hub id)."""

    name: str
    kind: Literal["scratch", "hf"]
    path: str | None
    revision: str | None
    trust_remote_code: bool
    architecture: Architecture | None
    context_length: PositiveInt | None
    dtype: Literal["float32", "bfloat16"]
    lora: Lora | None
    preference_lr: PositiveFloat
    sft: SFT
