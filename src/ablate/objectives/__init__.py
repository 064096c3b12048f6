"""Preference objectives as pure functions over one batch type: `make_objective(name)(group)`."""

from ablate.groups import PromptGroup
from ablate.objectives.fingerprint import fingerprint
from ablate.objectives.objective import (
    Objective,
    ObjectiveOutput,
    make_objective,
)
from ablate.objectives.scales import response_scales, token_scales
from ablate.objectives.state import ObjectiveState, State

__all__ = [
    "Objective",
    "ObjectiveOutput",
    "ObjectiveState",
    "PromptGroup",
    "State",
    "fingerprint",
    "make_objective",
    "response_scales",
    "token_scales",
]
