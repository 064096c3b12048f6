"""Configuration of K: how many responses of a pool enter the loss, and by which rule."""

from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from ablate.config.base import Node

Select = Literal["first", "random", "paper", "best_worst", "best_of_n", "max_variance", "rso"]

#: what a rule reads. `order`: which response is better; `scores`: how much better
RULES: dict[Select, Literal["nothing", "order", "scores"]] = {
    "first": "nothing",
    "random": "nothing",
    "paper": "order",
    "best_worst": "order",
    "best_of_n": "order",
    "max_variance": "scores",
    "rso": "scores",
}


class NumResponses(Node):
    """K, the responses per prompt that enter the loss, and how they are picked from the pool."""

    k: PositiveInt
    select: Select
    #: temperature of `select: rso`, in units of the training reward
    rso_beta: PositiveFloat = Field(0.5, json_schema_extra={"neutral": 0.5})
    #: prompts whose best and worst response of the pool differ by less are left out
    min_gap: float = Field(0.0, ge=0, json_schema_extra={"neutral": 0.0})

    def identity(self) -> dict[str, Any]:
        """Without what the rule does not read."""
        plain = super().identity()
        if self.select != "rso":
            plain.pop("rso_beta", None)
        return plain
