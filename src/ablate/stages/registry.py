"""The kinds of stages: what each is called, the version of its meaning, and where its work lies."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of stage. Raise `version` by hand when what it computes changes its meaning."""

    version: int
    work: str
    title: str
    #: whether the work runs a trainer, which several processes may share
    trains: bool = False
    #: whether the work samples responses, and says in its result how many
    draws: bool = False

    def load(self) -> Callable[[Any], None]:
        """Imports the function that does the work (this is where torch comes in)."""
        module, function = self.work.split(":")
        return getattr(importlib.import_module(module), function)


KINDS: dict[str, Kind] = {
    "sft": Kind(1, "ablate.stages.sft:run", "SFT policy", trains=True),
    "pool": Kind(1, "ablate.stages.pool:run", "response pool", draws=True),
    "labels": Kind(1, "ablate.stages.labels:run", "labels"),
    "reward_model": Kind(3, "ablate.stages.reward_model:run", "reward model", trains=True),
    "scores": Kind(3, "ablate.stages.scores:run", "training rewards"),
    "ref_logps": Kind(2, "ablate.stages.ref_logps:run", "reference log-probs"),
    "policy": Kind(2, "ablate.stages.policy:run", "policy", trains=True, draws=True),
    "select": Kind(1, "ablate.stages.select:run", "checkpoint selection", draws=True),
    "answers": Kind(1, "ablate.stages.answers:run", "SFT evaluation", draws=True),
    "evaluation": Kind(3, "ablate.stages.evaluation:run", "evaluation", draws=True),
}

#: the stages that belong to one run rather than to many; a forced run computes these again
RUN_STAGES = frozenset({"policy", "select", "evaluation"})
