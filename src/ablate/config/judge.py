"""Configuration of judges: a world's rule, a reward model trained here, one of yours, HTTP."""

import re
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ablate.config.base import Node
from ablate.config.reward import RewardTraining

#: what a prompt template must hold, by how it asks
PLACEHOLDERS = {
    "pointwise": ("prompt", "response"),
    "pairwise": ("prompt", "response_a", "response_b"),
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"key|token|secret|password|sig(nature)?$", re.IGNORECASE)


class Classifier(Node):
    """A sequence classifier from a folder or hub id, and how answers are put to it."""

    path: str
    revision: str | None
    trust_remote_code: bool = Field(json_schema_extra={"neutral": False})
    dtype: Literal["float32", "bfloat16"] = Field(json_schema_extra={"neutral": "float32"})
    #: how prompt and answer become one sequence
    encoding: Literal["auto", "chat", "pair", "plain"] = Field(
        json_schema_extra={"neutral": "auto"}
    )
    #: which of several outputs is the score; null: there must be one
    output: NonNegativeInt | None = Field(json_schema_extra={"neutral": None})
    #: tokens; null: what model and tokenizer allow
    max_length: PositiveInt | None = Field(json_schema_extra={"neutral": None})
    too_long: Literal["fail", "truncate"] = Field(json_schema_extra={"neutral": "fail"})
    #: tokens per forward pass, padding included
    batch_tokens: PositiveInt


class WorldJudgeConfig(Node):
    """The rule of an embedded world."""

    name: str
    kind: Literal["world"]


class PreferenceJudgeConfig(Node):
    """A reward model trained on labels that neither policy nor training reward ever sees."""

    name: str
    kind: Literal["preference"]
    training: RewardTraining


class ClassifierJudgeConfig(Classifier):
    """A reward model of yours."""

    name: str
    kind: Literal["hf"]


class ChatJudge(Node):
    """How a language model is asked for its judgement, and how its reply is read."""

    mode: Literal["pointwise", "pairwise"]
    template: str = Field(min_length=1)
    #: a file that replaces `template`
    template_file: str | None
    #: regular expression with one group; the last match in a reply counts
    pattern: str
    #: lowest and highest score (pointwise)
    scale: tuple[float, float]
    #: pairwise: ask in both orders and take the mean
    swap: bool
    temperature: NonNegativeFloat | None
    max_tokens: PositiveInt | None

    @model_validator(mode="after")
    def _readable(self) -> "ChatJudge":
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(
                f"pattern must hold one group, around the verdict; it holds {groups}: "
                f"{self.pattern!r}"
            )
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"scale must rise, as [1, 10] does; it is {list(self.scale)}")
        if self.template_file is None:
            check_template(self.template, self.mode)
        return self


class HttpJudgeConfig(Node):
    """A judge behind an HTTP endpoint: a chat model that is asked, or a reward model."""

    name: str
    kind: Literal["http"]
    url: str
    format: Literal["chat", "rewards", "vllm_classify", "vllm_pooling", "tei_predict"]
    #: sent to the endpoint and part of the judge's identity, which the url is not
    model: str = Field(min_length=1, coerce_numbers_to_str=True)
    #: which version of the model is served, where its name does not tell
    version: str | None = Field(coerce_numbers_to_str=True, json_schema_extra={"neutral": None})
    #: NAME of the environment variable that holds the key
    api_key_env: str | None
    chat: ChatJudge
    batch_size: PositiveInt
    concurrency: PositiveInt
    timeout: PositiveFloat
    retries: NonNegativeInt
    backoff: PositiveFloat

    @model_validator(mode="after")
    def _reachable(self) -> "HttpJudgeConfig":
        # what was given is not repeated in these messages: it may be a key
        if self.api_key_env is not None and not _NAME.fullmatch(self.api_key_env):
            raise ValueError(
                "api_key_env must be the NAME of an environment variable that holds the key, such "
                "as JUDGE_API_KEY, never the key itself"
            )
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ValueError("url is no address; write http://host:port/path") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("url must read http://host:port/path or https://…")
        secret = [name for name, _ in parse_qsl(parts.query) if _SECRET.search(name)]
        if parts.username or parts.password or secret:
            raise ValueError(
                "url holds a password or key, which would be recorded; put it into an environment "
                "variable and name that in api_key_env"
            )
        return self


JudgeConfig = Annotated[
    WorldJudgeConfig | PreferenceJudgeConfig | ClassifierJudgeConfig | HttpJudgeConfig,
    Field(discriminator="kind"),
]


def check_template(template: str, mode: Literal["pointwise", "pairwise"]) -> None:
    """Raises ValueError where a prompt template lacks a placeholder."""
    lacking = [name for name in PLACEHOLDERS[mode] if f"{{{name}}}" not in template]
    if lacking:
        raise ValueError(
            f"the template of a {mode} judge must hold "
            f"{', '.join('{' + name + '}' for name in PLACEHOLDERS[mode])}; it lacks "
            f"{', '.join('{' + name + '}' for name in lacking)}"
        )
