"""What a training step costs on a CPU where a store has no records: fitted curves, interpolated."""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: written by `python benchmarks/training_cost.py --package`
FITS = Path(__file__).with_name("cost.json")


@dataclass(frozen=True)
class StepCost:
    """Seconds of a training step = fixed + operations / rate."""

    fixed: float
    rate: float

    def seconds(self, steps: float, operations: float) -> float:
        """Of so many steps with so many floating-point operations in all."""
        return steps * self.fixed + operations / self.rate


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
