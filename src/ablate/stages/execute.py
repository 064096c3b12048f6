"""Execution: computes the stages that a run lacks, publishes them, and then the run's record."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ablate.config.run import RunConfig
from ablate.errors import AblateError, ConfigError, StageFailed
from ablate.stages.context import Context, Log, Report, isolated_generators
from ablate.stages.graph import Stage
from ablate.stages.registry import KINDS
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
                self._compute(
                    stage, Context(stage.params, inputs, out, stage.run, report, self.log, partial)
                )
        self.seconds[stage.identity] = time.monotonic() - started
        self.display.finish(stage, self.seconds[stage.identity], found=out is None)
        return self.ensure(stage)

    def _compute(self, stage: Stage, context: Context) -> None:
        work: Callable[[Context], None] = KINDS[stage.name].load()
        try:
            with isolated_generators(int(stage.identity[:8], 16)):
                work(context)
        except AblateError:
            raise
        except Exception as error:
            detail = traceback.format_exc()
            failure = StageFailed(f"the stage '{stage.title}' failed: {_cause(error)}")
            failure.add_note(detail)
            raise failure from error


def prepare_machine(run: RunConfig) -> None:
    """Sets threads and determinism of this process as the run asks (idempotent)."""
    import os

    import torch

    if run.runtime.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.device=cuda, but this torch sees no GPU. Use runtime.device=auto, or install "
            "a CUDA build of torch"
        )
    torch.set_num_threads(run.runtime.threads or os.cpu_count() or 1)
    if run.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def _cause(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else '(no message)'}"
