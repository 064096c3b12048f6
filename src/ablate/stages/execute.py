"""Execution: computes the stages that a run lacks, publishes them, and then the run's record."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ablate.stages.compute import prepare_machine
from ablate.stages.context import Context, Log, Report
from ablate.stages.graph import Stage
from ablate.stages.team import compute
from ablate.store.stages import StageStore


class Display(Protocol):
    """Shows the progress of stages to a person (or does not)."""

    def start(self, stage: Stage) -> Report:
        """A stage begins; returns the function that it reports its progress to."""
        ...

    def finish(self, stage: Stage, seconds: float, found: bool) -> None:
        """A stage is there: computed in `seconds`, or found in the store."""
        ...


class Silent:
    """A display that shows nothing."""

    def start(self, stage: Stage) -> Report:
        return lambda done, total, metrics: None

    def finish(self, stage: Stage, seconds: float, found: bool) -> None:
        return None


@dataclass
class Execution:
    """Computes stages into a store; remembers how long each took and which were found."""

    store: StageStore
    display: Display = field(default_factory=Silent)
    log: Log = lambda step, metrics: None
    seconds: dict[str, float] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)

    def ensure(self, stage: Stage) -> Path:
        """The published folder of a stage, computing it and what it needs if absent.

        Raises:
            StageFailed: names the stage that failed and why; other AblateErrors pass through.
        """
        here = self.store.find(stage.name, stage.identity)
        if here is not None:
            if stage.identity not in self.seconds and stage.identity not in self.found:
                self.found.add(stage.identity)
                self.display.finish(stage, 0.0, found=True)
            return here
        inputs = {role: self.ensure(needed) for role, needed in stage.inputs.items()}
        prepare_machine(stage.run)
        started = time.monotonic()
        with self.store.computing(stage.name, stage.identity) as out:
            if out is not None:
                report = self.display.start(stage)
                partial = self.store.partial(stage.name, stage.identity)
                context = Context(
                    stage.params, inputs, out, stage.run, report, self.log, partial=partial
                )
                compute(stage, context)
        self.seconds[stage.identity] = time.monotonic() - started
        self.display.finish(stage, self.seconds[stage.identity], found=out is None)
        return self.ensure(stage)
