"""Configuration of datasets: the embedded worlds and local files."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from ablate.config.base import Node


class Sampling(Node):
    """How responses are drawn. `top_k: 0` and `top_p: 1` switch the two cuts off."""

    temperature: PositiveFloat
    top_p: float = Field(gt=0, le=1)
    top_k: NonNegativeInt
    max_new_tokens: PositiveInt


class Pool(Node):
    """The N responses per prompt that are sampled and labelled once."""

    num_responses: PositiveInt
    sampling: Sampling


class Sizes(Node):
    """Prompts per split of an embedded world."""

    sft: PositiveInt
    reward: PositiveInt
    train: PositiveInt
    valid: PositiveInt
    test: PositiveInt
    ood: PositiveInt


class WorldConfig(Node):
    """An embedded world (`lists` or `sums`): prompts, demonstrations and judge made by rule."""

    kind: Literal["world"]
    name: str
    world: Literal["lists", "sums"]
    world_seed: NonNegativeInt
    train_prompts: Literal["id", "ood", "mix"]
    nuisance: float = Field(ge=0, le=1)
    sizes: Sizes
    pool: Pool


class LocalConfig(Node):
    """A JSONL or Parquet file (or several) with responses and preferences."""

    kind: Literal["local"]
    name: str
    path: str
    ood_path: str | None
    #: who labels the training prompts' responses: the file (`given`) or the judge
    labelled_by: Literal["given", "judge"] = Field(json_schema_extra={"neutral": "given"})
    #: shares of prompts by split where the file has no `split` column
    reward_share: float = Field(ge=0, lt=1)
    judge_share: float = Field(ge=0, lt=1)
    valid_share: float = Field(gt=0, lt=1)
    test_share: float = Field(gt=0, lt=1)
    pool: Pool


DatasetConfig = Annotated[WorldConfig | LocalConfig, Field(discriminator="kind")]
