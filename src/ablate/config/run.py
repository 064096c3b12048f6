"""Configuration of a whole run: every factor in one validated, immutable tree."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from ablate.config.base import Node, explain, neutral
from ablate.config.collection import CollectionConfig
from ablate.config.dataset import DatasetConfig, Sampling
from ablate.config.judge import JudgeConfig
from ablate.config.model import BaseModelConfig
from ablate.config.objective import ObjectiveConfig
from ablate.config.reward import RewardConfig
from ablate.config.sampler import SamplerConfig
from ablate.config.selection import NumResponses
from ablate.config.shaping import ShapingConfig
from ablate.config.training import TrainingConfig
from ablate.errors import ConfigError


class EvaluationConfig(Node):
    """Which prompts are answered and how the answers are drawn."""

    name: str
    num_valid: PositiveInt
    num_test: PositiveInt
    num_ood: PositiveInt
    samples_per_prompt: PositiveInt
    sampling: Sampling
    seed: NonNegativeInt
    #: 0 in runs made before there were labelled pairs
    num_pairs: NonNegativeInt = neutral(0)
    pair_responses: int = neutral(2, ge=2)


class TrackerConfig(Node):
    """Where step metrics are mirrored; never part of any identity."""

    name: str
    mode: Literal["offline", "online", "none"]
    project: str | None
    entity: str | None


class Seed(Node):
    """`scope: all` redraws every stage with the seed; `policy` only the policy's training."""

    value: NonNegativeInt
    scope: Literal["all", "policy"]


class Runtime(Node):
    """The machine's side of a run; no part of any identity."""

    threads: PositiveInt | None
    processes: PositiveInt
    fsdp: bool
    device: Literal["auto", "cpu", "cuda"]
    min_free_mb: NonNegativeInt


class RunConfig(Node):
    """One run, frozen: all that decides its result, and where and how it is carried out."""

    objective: ObjectiveConfig
    num_responses: NumResponses
    reward: RewardConfig
    shaping: ShapingConfig
    base_model: BaseModelConfig
    dataset: DatasetConfig = Field(discriminator="kind")
    collection: CollectionConfig
    sampler: SamplerConfig = Field(discriminator="kind")
    judge: JudgeConfig = Field(discriminator="kind")
    evaluation: EvaluationConfig
    training: TrainingConfig
    tracker: TrackerConfig
    seed: Seed
    runtime: Runtime
    results_dir: str = Field(min_length=1)
    force: Literal[False, True, "all"]
    #: what stays of the policy's weights once the run is recorded; no part of any identity
    keep: Literal["all", "best", "last", "adapter", "none"]


def validate(plain: dict[str, Any]) -> RunConfig:
    """The validated run of a resolved configuration.

    Raises:
        ConfigError: names every field that is missing, unknown or out of range.
    """
    try:
        return RunConfig.model_validate(plain)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
