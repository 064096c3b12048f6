"""Preference objectives as pure functions over one batch type: `make_objective(name)(group)`."""

from ablate.groups import PromptGroup
from ablate.objectives.fingerprint import fingerprint
from ablate.objectives.objective import (
    Objective,
    ObjectiveOutput,
    make_objective,
    response_scales,
)

__all__ = [
    "Objective",
    "ObjectiveOutput",
    "PromptGroup",
    "fingerprint",
    "make_objective",
    "response_scales",
]
