"""What steps and stages cost on a CPU where a store has no records: fitted, interpolated."""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: written by benchmarks/training_cost.py and benchmarks/stage_cost.py, each with --package
FITS = Path(__file__).with_name("cost.json")


@dataclass(frozen=True)
class StepCost:
    """Seconds of a training step = fixed + operations / rate."""

    fixed: float
    rate: float

    def seconds(self, steps: float, operations: float) -> float:
        """Of so many steps with so many floating-point operations in all."""
        return steps * self.fixed + operations / self.rate


@dataclass(frozen=True)
class StageCost:
    """Seconds of a stage = start + seconds of its operations as bare training steps / share."""

    start: float
    share: float


@cache
def fits() -> tuple[tuple[int, StepCost], ...]:
    """The models that were measured: weights and cost, smallest first."""
    found = json.loads(FITS.read_text(encoding="utf-8"))["fits"]
    made = [(int(f["weights"]), StepCost(f["fixed_seconds"], f["flops_per_second"])) for f in found]
    return tuple(sorted(made, key=lambda one: one[0]))


def step_cost(weights: int) -> StepCost:
    """Of a model of this size: between two that were measured on straight lines in logarithms.

    Smaller and larger ones cost per operation what the nearest does.
    """
    known = fits()
    before = [one for one in known if one[0] <= weights][-1:] or known[:1]
    after = [one for one in known if one[0] >= weights][:1] or known[-1:]
    (low, first), (high, second) = before[0], after[0]
    share = math.log(weights / low) / math.log(high / low) if high > low else 0.0
    fixed = first.fixed + share * (second.fixed - first.fixed)
    return StepCost(fixed, first.rate ** (1 - share) * second.rate**share)


@cache
def stage_costs() -> dict[str, StageCost]:
    """The kinds of stages that were measured, with all that surrounds their operations."""
    found = json.loads(FITS.read_text(encoding="utf-8"))["stages"]
    return {kind: StageCost(one["start_seconds"], one["share"]) for kind, one in found.items()}


def stage_seconds(kind: str, weights: int, steps: float, operations: float) -> float:
    """Of a stage of this kind (`stage_costs`) for a model of this size; 0 without operations."""
    if not operations:
        return 0.0
    cost = stage_costs()[kind]
    return cost.start + step_cost(weights).seconds(steps, operations) / cost.share
