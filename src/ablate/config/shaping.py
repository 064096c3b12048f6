"""Configuration of reward shaping: what the length of an answer does to its 0/1 reward."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ablate.config.base import Node

#: settings that each kind reads
SETTINGS: dict[str, tuple[str, ...]] = {
    "none": (),
    "hapo": ("weight", "correct_floor"),
    "slpo": ("weight",),
    "grpo_lambda": ("weight", "share"),
    "truncation": ("limit",),
    "budget": ("weight", "start", "decay", "interval", "form"),
}
#: kinds that remember or count steps, with what they lack where responses are drawn once
ALONG_TRAINING = {
    "hapo": "compares with earlier answers to the same prompt, and there are none",
    "budget": "shrinks its budget from step to step, and rewards are given before the first",
}
#: kinds that look at all responses of a step, or at those of earlier ones
WHOLE_BATCH = ("hapo", "grpo_lambda")
#: reward sources whose scores are a verdict of right or wrong
VERDICTS = ("gold", "verifier")


class ShapingConfig(Node):
    """A shaper and its settings; those of other shapers are null."""

    name: str
    kind: Literal["none", "hapo", "slpo", "grpo_lambda", "truncation", "budget"]
    weight: PositiveFloat | None
    correct_floor: float | None = Field(ge=-1, le=0)
    share: float | None = Field(gt=0, le=1)
    limit: PositiveInt | None
    start: PositiveInt | None
    decay: float | None = Field(gt=0, le=1)
    interval: PositiveInt | None
    form: Literal["triangle", "band"] | None

    @model_validator(mode="after")
    def _has_a_meaning(self) -> "ShapingConfig":
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        used = SETTINGS[self.kind]
        for name in {name for names in SETTINGS.values() for name in names}:
            given = getattr(self, name) is not None
            if name in used and not given:
                yield f"shaping={self.name} needs shaping.{name}, which is null"
            if given and name not in used:
                yield f"shaping.{name} has no meaning with shaping={self.name}; set it to null"
