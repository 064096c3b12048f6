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
    """`kind: scratch` builds `architecture` anew; `kind: hf` loads `path` (folder or hub id).

    `dtype: auto` is bfloat16 on a GPU and float32 on a CPU. The fields from `preference_lr` on say
    how a model of this size is trained to begin with; other groups take them over (`training`,
    `runtime`), and there they can be changed. `micro_batch_size` and `gradient_checkpointing`
    hold for SFT and reward models too: the same updates in less memory.
    """

    name: str
    kind: Literal["scratch", "hf"]
    path: str | None
    revision: str | None
    trust_remote_code: bool
    architecture: Architecture | None
    context_length: PositiveInt | None
    dtype: Literal["auto", "float32", "bfloat16"]
    #: for chat templates with a thinking mode: whether answers begin with thoughts; None leaves it
    #: to the template
    thinking: bool | None = Field(default=None, json_schema_extra={"neutral": None})
    lora: Lora | None
    preference_lr: PositiveFloat
    #: prompts per optimizer step of preference training
    preference_batch_size: PositiveInt
    #: examples per forward pass and process: prompts with their K responses, demonstrations,
    #: comparisons; None: the whole batch at once
    micro_batch_size: PositiveInt | None
    gradient_checkpointing: bool
    #: how many processes train, one per GPU, and whether the policy is sharded over them
    processes: PositiveInt
    fsdp: bool
    sft: SFT
