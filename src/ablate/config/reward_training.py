"""Configuration of a learnt reward's training, whether it serves as reward or as judge."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from ablate.config.base import Node


class RewardTraining(Node):
    """How a learnt reward source is trained, on labels of prompts the policy never trains on."""

    loss: Literal["bradley_terry", "regression", "dpo"]
    init: Literal["sft", "base"]
    num_labels: PositiveInt | None
    beta: PositiveFloat | None
    lr: PositiveFloat
    batch_size: PositiveInt
    epochs: PositiveFloat
