"""Configuration of datasets: the embedded worlds, local files and public preference sets."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

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


class Annotator(Node):
    """A group of annotators: its share of the prompts, and what it likes beside quality.

    All likings are in standard deviations of the clean score within a prompt: per standard
    deviation of length or of the number of words for show (worlds only), and of a taste of its own.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    share: PositiveFloat
    length: float
    nuisance: float
    taste: NonNegativeFloat


class Labels(Node):
    """How labels differ from the clean score (`ablate.datasets.label_models`)."""

    flip_rate: float = Field(ge=0, le=0.5)
    temperature: NonNegativeFloat
    length_bias: float
    annotators: list[Annotator]

    @property
    def clean(self) -> bool:
        """True where labels are the scores themselves."""
        return not (self.flip_rate or self.temperature or self.length_bias or self.annotators)


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
    labels: Labels


class Lengths(Node):
    """What happens to examples that are too long for the model or for limits of one's own.

    Tokens, special ones included; a limit of null is the model's context.
    """

    over_long: Literal["error", "drop", "truncate"]
    max_prompt_tokens: PositiveInt | None
    max_tokens: PositiveInt | None

    @property
    def neutral(self) -> bool:
        """True where all that happens is that the model's context is not exceeded."""
        return self.over_long == "error" and self.max_prompt_tokens is self.max_tokens is None


class GivenConfig(Node):
    """What datasets whose responses come with them share: splits, lengths, pool, labels."""

    name: str
    #: who labels the training prompts' responses: the data (`given`) or the judge
    labelled_by: Literal["given", "judge"] = Field(json_schema_extra={"neutral": "given"})
    #: shares of prompts by split where the rows do not say to which split they belong
    reward_share: float = Field(ge=0, lt=1)
    judge_share: float = Field(ge=0, lt=1)
    valid_share: float = Field(gt=0, lt=1)
    test_share: float = Field(ge=0, lt=1)
    lengths: Lengths
    pool: Pool
    labels: Labels


class LocalConfig(GivenConfig):
    """A JSONL or Parquet file with responses and preferences."""

    kind: Literal["local"]
    path: str
    ood_path: str | None
    test_share: float = Field(gt=0, lt=1)


class Files(Node):
    """Patterns of files below the dataset's folder, by what their rows are for."""

    #: divided by the shares
    main: list[str] = Field(min_length=1)
    test: list[str]
    ood: list[str]


class PublicConfig(GivenConfig):
    """A public preference set, from its hub id or from a local folder or file of its schema."""

    kind: Literal["public"]
    adapter: Literal[
        "ultrafeedback",
        "ultrafeedback_binarized",
        "helpsteer2",
        "helpsteer3",
        "hh_rlhf",
        "nectar",
    ]
    hub: str
    revision: str | None
    path: str | None
    files: Files
    #: weights of the row's own scores; null where the schema has one label only
    score: dict[str, float] | None
    streaming: bool
    max_prompts: PositiveInt | None


DatasetConfig = Annotated[WorldConfig | LocalConfig | PublicConfig, Field(discriminator="kind")]
