"""Trials of an arm: which settings are tuned in its world, and log-uniform draws of them."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from ablate.config.levels import level_names, read_level
from ablate.config.run import RunConfig
from ablate.config.sweep_file import Range
from ablate.errors import ConfigError

GROUP = "tuning"
#: in this order; what a later one says of a setting replaces what an earlier one said
FACTORS = ("base_model", "reward", "objective", "collection")


def ranges_of(run: RunConfig, own: dict[str, Range], search: Sequence[str]) -> dict[str, Range]:
    """The ranges of the settings that are tuned for an arm.

    Args:
        run: any run of the arm: its world and its levels decide.
        own: the sweep's own ranges, which replace those of the world.

    Raises:
        ConfigError: neither the sweep nor `conf/tuning` says anything for this dataset, or a
            range is none.
    """
    known = level_names(GROUP, search)
    if run.dataset.name in known:
        content = read_level(GROUP, run.dataset.name, search)
    elif own:
        content = {}
    else:
        raise ConfigError(
            f"there are no ranges to tune in for dataset={run.dataset.name}: add "
            f"conf/tuning/{run.dataset.name}.yaml (there are {', '.join(known)}), or "
            "tune: {ranges: {training.lr: [1e-6, 1e-5]}} in the sweep's file"
        )
    found: dict[str, Any] = dict(content.get("common") or {})
    for factor in FACTORS:
        levels = content.get(factor) or {}
        found |= levels.get(getattr(run, factor).name) or {}
    found |= own
    for setting, bounds in found.items():
        low, high = float(bounds[0]), float(bounds[1])
        if len(bounds) != 2 or not 0 < low <= high:
            raise ConfigError(
                f"tuning {run.dataset.name}: {setting}: {bounds} is no [smallest, largest]"
            )
        found[setting] = (low, high)
    return found


def draw(ranges: dict[str, Range], trials: int, key: int) -> list[dict[str, float]]:
    """Settings of every trial, each log-uniform in its range, to three significant digits.

    A Latin hypercube: a range is cut into as many equal parts (in the logarithm) as there are
    trials, and each part is drawn from once. Draws depend on (key, setting, trial) alone, so that
    arms which tune the same setting in the same range try the same values.
    """
    columns = {}
    for setting, (low, high) in ranges.items():
        order = sorted(range(trials), key=lambda t, s=setting: _uniform(key, s, "part", t))  # type: ignore[misc]
        places = [(part + _uniform(key, setting, "place", part)) / trials for part in order]
        values = [math.exp(math.log(low) + u * math.log(high / low)) for u in places]
        columns[setting] = [float(f"{value:.3g}") for value in values]
    return [{setting: columns[setting][t] for setting in ranges} for t in range(trials)]


def _uniform(*words: Any) -> float:
    """A number in [0, 1) that is the same for ever."""
    digest = hashlib.sha256(" ".join(map(str, words)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
