"""What an objective remembers of earlier batches: updated once per global batch, checkpointed."""

from typing import Any

import torch
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.errors import DataError
from ablate.groups import PromptGroup
from ablate.objectives.pairs import choose_pairs, counted_pairs
from ablate.objectives.scores import scores

#: name -> number; plain floats, so that every process holds the same
State = dict[str, float]


def initial_state(config: ObjectiveConfig) -> State:
    """The state before the first batch; empty for an objective that remembers nothing."""
    state: State = {}
    if config.baseline == "running_mean":
        state |= {"delta": 0.0, "seen": 0.0}
    if config.adapt == "gap":
        state |= {"gap_mean": 0.0, "gap_sd": 0.0, "kept_gap": 0.0, "reach": 0.0}
    return state


def advanced_state(config: ObjectiveConfig, state: State, group: PromptGroup) -> State:
    """The state after a global batch, which is the one that its loss uses.

    `delta` is the mean of the scores of all better and worse responses seen (arXiv 2404.04656).
    `gap_mean` and `gap_sd` are exponential means of the log-ratio gap and of its deviation,
    `kept_gap` the mean gap of the pairs within `reach` of `gap_mean` (arXiv 2407.08639).
    """
    if not state:
        return {}
    assert config.pairing is not None
    with torch.no_grad():
        pairs = choose_pairs(config.pairing, group)
        counted = counted_pairs(config, pairs)
        values = scores(config, group)
        if config.baseline == "running_mean":
            both = torch.cat([values.gather(1, pairs.better), values.gather(1, pairs.worse)], dim=1)
            return _running_mean(state, both[torch.cat([counted, counted], dim=1)])
        # in float64 before the division, as the loss has it: the pair at the reach itself is kept
        return _gap(config, state, pairs.gap(values)[counted].double() / config.beta)


def _running_mean(state: State, values: Tensor) -> State:
    count = values.numel()
    if not count:
        return state
    seen = state["seen"] + count
    step = (values.double().mean().item() - state["delta"]) * count / seen
    return {"delta": state["delta"] + step, "seen": seen}


def _gap(config: ObjectiveConfig, state: State, gaps: Tensor) -> State:
    """`gaps`: float[n] of the pairs that count."""
    if not gaps.numel():
        return state
    assert config.gap_momentum is not None
    assert config.gap_keep is not None
    keep = config.gap_momentum
    spread = gaps.std().item() if gaps.numel() > 1 else 0.0
    mean = keep * state["gap_mean"] + (1 - keep) * gaps.mean().item()
    away = (gaps - mean).abs()
    # at least one pair stays; equally far ones stay together, whatever their order
    number = max(1, int(gaps.numel() * config.gap_keep))
    reach = away.sort().values[number - 1]
    return {
        "gap_mean": mean,
        "gap_sd": keep * state["gap_sd"] + (1 - keep) * spread,
        "kept_gap": gaps[away <= reach].mean().item(),
        "reach": reach.item(),
    }


class ObjectiveState:
    """The state of an objective along training; every process updates it on the global batch."""

    def __init__(self, objective: Any) -> None:
        self.objective = objective
        self.values: State = objective.initial_state()

    def update(self, group: PromptGroup) -> State:
        """Take in a global batch, once per optimizer step, and return the state for its loss."""
        self.values = self.objective.advanced_state(self.values, group)
        return self.values

    def state_dict(self) -> State:
        """Plain numbers that a checkpoint can hold."""
        return dict(self.values)

    def load_state_dict(self, values: State) -> None:
        """Continue from a checkpoint. Raises `DataError` for the state of another objective."""
        if set(values) != set(self.values):
            raise DataError(
                f"Objective '{self.objective.name}' remembers {sorted(self.values)}, the "
                f"checkpoint holds {sorted(values)}."
            )
        self.values = {name: float(value) for name, value in values.items()}
