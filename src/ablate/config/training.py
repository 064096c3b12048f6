"""Configuration of preference training: optimiser, batches, checkpoints."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from ablate.config.base import Node, neutral


class TrainingConfig(Node):
    """How the policy is trained. Batch sizes count prompts (groups), never responses."""

    name: str
    lr: PositiveFloat
    schedule: Literal["constant", "linear", "cosine", "constant_with_warmup"]
    warmup_steps: NonNegativeInt
    batch_size: PositiveInt
    micro_batch_size: PositiveInt | None
    epochs: PositiveFloat
    max_steps: PositiveInt | None
    adam_beta1: float = Field(ge=0, lt=1)
    adam_beta2: float = Field(ge=0, lt=1)
    adam_epsilon: PositiveFloat
    weight_decay: float = Field(ge=0)
    max_grad_norm: PositiveFloat | None
    gradient_checkpointing: bool
    checkpoint_every: PositiveInt
    select_checkpoint: Literal["last", "valid"]
    #: whose mean on the valid prompts `select_checkpoint: valid` compares
    select_by: Literal["judge", "training_reward"]
    deterministic: bool
    # The next two change a result in its last digits only, but bits are what an identity promises:
    # `on`, `off` and a number are part of it, as micro_batch_size is. `auto` is left out, because
    # on one kind of machine it always means the same. Runs of before packed rows differ from
    # those of today by that rounding; the stages that compute log-probs carry a new version.
    #: whether a prompt is encoded once for all its responses, and short rows are joined
    shared_prompt: Literal["auto", "on", "off"] = neutral("auto")
    #: tokens of a forward pass and process, padding included
    tokens_per_device: PositiveInt | Literal["auto"] = neutral("auto")
