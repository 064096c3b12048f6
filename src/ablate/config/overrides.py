"""Overrides as people type them, turned into what Hydra accepts. The one place for such rules."""

import re
from collections.abc import Sequence

from ablate.config.levels import level_names

_SPLIT = re.compile(r"^(?P<key>[\w./@]+)=(?P<value>.*)$", re.DOTALL)
_INTEGERS = re.compile(r"^\d+(\s*,\s*\d+)*$")
#: settings whose keys are the user's
_OPEN = ("hydra.launcher.stages", "hydra.launcher.additional_parameters")


def normalize(overrides: Sequence[str], search: Sequence[str] = ()) -> list[str]:
    """Overrides with the forms that Hydra 1.3 refuses rewritten.

    - `num_responses=4` and `num_responses=2,4`: Hydra takes no integer as a choice of a group, so
      the names of numeric levels are quoted; a number without a level file means
      `num_responses.k=6`.
    - `seed=3` is short for `seed.value=3`, whether alone or in a sweep.
    - `reward.training.objective=simpo` chooses a level of `objective` for that place.
    - `hydra.launcher.stages={policy:{gpus_per_node:8}}` may name what is not there yet.
    """
    return [_normalize(override, search) for override in overrides]


def _normalize(override: str, search: Sequence[str]) -> str:
    match = _SPLIT.match(override)
    if match is None:
        return override
    key, value = match["key"], match["value"].strip()
    if key == "seed":
        return f"seed.value={value}"
    if key == "num_responses" and _INTEGERS.match(value):
        numbers = [number.strip() for number in value.split(",")]
        if set(numbers) <= set(level_names("num_responses", search)):
            return f"{key}=" + ",".join(f"'{number}'" for number in numbers)
        return f"{key}.k={value}"
    if key.startswith("reward.") and key.endswith(".training.objective"):
        return f"objective@{key}={value}"
    if key.startswith(_OPEN):
        return f"++{override}"
    return override
