"""Who computes a stage: this process, several started here, or the ranks that a launcher started.

Only stages that train use several processes. Under a launcher (torchrun, or srun with one task
per rank: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set) rank 0 leads: it holds the claims,
computes everything else alone and calls the others when a stage trains. They wait meanwhile by
asking a key-value store, not in a collective operation, which would time out.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from ablate.errors import AblateError, ConfigError, StageFailed
from ablate.stages.compute import (
    check_sharding,
    compute_here,
    prepare_machine,
    share_weights,
)
from ablate.stages.context import Context
from ablate.stages.graph import RunPlan, Stage
from ablate.stages.ranks import GRACE_SECONDS, compute_on_ranks, leave_group
from ablate.stages.registry import KINDS

POLL_SECONDS = 0.2
#: how long ranks may take to start, and to take their leave
MEETING = timedelta(minutes=10)

Result = TypeVar("Result")


def trains(stage: Stage) -> bool:
    """Whether the stage's work runs a trainer, which several processes may share."""
    return KINDS[stage.name].trains and stage.params.get("sft", {"steps": 1})["steps"] > 0


def compute(stage: Stage, context: Context) -> None:
    """Does the stage's work on as many processes as the run has for it.

    Raises:
        AblateError: as `compute_here` and `compute_on_ranks`.
    """
    team = _Launched.current
    if team is not None and trains(stage):
        team.lead(stage, context)
    elif team is None and stage.run.runtime.processes > 1 and trains(stage):
        compute_on_ranks(stage, context, stage.run.runtime.processes)
    else:
        compute_here(stage, context)


def launched() -> int:
    """How many ranks a launcher started for this run; 0 where this process stands alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return size if size > 1 and "RANK" in os.environ else 0


def leads() -> bool:
    """False for the ranks of a launcher that only assist: they print nothing and record nothing."""
    return not launched() or os.environ["RANK"] == "0"


def together(plan: RunPlan, lead: Callable[[], Result]) -> Result | None:
    """Calls `lead` in the process that leads and returns its result; other ranks assist it.

    Returns:
        None on the other ranks of a launcher.

    Raises:
        ConfigError: the run asks for another number of processes than the launcher started, or
            for sharding without GPUs.
        StageFailed: on the other ranks, where the one that leads is gone.
    """
    size, wanted = launched(), plan.run.runtime.processes
    if max(size, wanted) > 1:
        check_sharding(plan.run)
    if not size:
        return lead()
    if wanted not in (1, size):
        raise ConfigError(
            f"runtime.processes={wanted}, but the launcher started {size} processes; leave "
            "runtime.processes out, the launcher's number counts"
        )
    team = _Launched(size)
    _Launched.current = team
    try:
        if team.rank:
            team.assist(plan)
            return None
        try:
            return lead()
        finally:
            team.dismiss()
    finally:
        _Launched.current = None
        leave_group()


class _Launched:
    """The ranks of a launcher and the store through which they agree on what to do next."""

    current: "_Launched | None" = None

    def __init__(self, size: int) -> None:
        from torch.distributed import PrefixStore, TCPStore

        self.size, self.rank = size, int(os.environ["RANK"])
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        opens = self.rank == 0 and not agent
        #: kept: closing it would end the rendezvous of the trainers' process group too
        self._server = TCPStore(host, port, None, opens, MEETING, wait_for_workers=False)
        # torch would open a second store at this port otherwise
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        self.store = PrefixStore("ablate", self._server)
        self.sharers = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
        self.task = 0

    # -- rank 0 ------------------------------------------------------------------------------

    def lead(self, stage: Stage, context: Context) -> None:
        """Calls the other ranks to a stage and does rank 0's share of it."""
        inputs = {role: str(path.resolve()) for role, path in context.inputs.items()}
        partial = None if context.partial is None else str(context.partial.resolve())
        self._post({"stage": stage.identity, "inputs": inputs, "partial": partial})
        self._await_others(stage)
        prepare_machine(stage.run, self.sharers)
        try:
            share_weights(stage)
            compute_here(stage, context)
        except StageFailed as error:
            self._blame(error)
            raise
        finally:
            prepare_machine(stage.run)

    def dismiss(self) -> None:
        """Tells the others that all is done, and stays until they know."""
        self._post({"stage": None})
        deadline = time.monotonic() + GRACE_SECONDS
        left = {f"left-{rank}" for rank in range(1, self.size)}
        while time.monotonic() < deadline and not all(self.store.check([key]) for key in left):
            time.sleep(POLL_SECONDS)

    def _post(self, task: dict[str, Any]) -> None:
        self.task += 1
        self.store.set(f"task-{self.task}", json.dumps(task))

    def _await_others(self, stage: Stage) -> None:
        """Waits until every rank has come, rather than in a collective for one that cannot."""
        deadline = time.monotonic() + MEETING.total_seconds()
        missing = set(range(1, self.size))
        while missing:
            missing = {r for r in missing if not self.store.check([f"ready-{self.task}-{r}"])}
            word = self._word()
            if word is not None:
                raise StageFailed(word["reason"])
            if missing and time.monotonic() > deadline:
                raise StageFailed(
                    f"the stage '{stage.title}' failed: process {min(missing)} of {self.size} did "
                    f"not come within {MEETING.total_seconds():.0f} s; its own log tells more"
                )
            time.sleep(POLL_SECONDS)

    def _blame(self, error: StageFailed) -> None:
        """Raises what another rank failed from, if that came first: ours may follow from it."""
        seen = time.time()
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            word = self._word()
            if word is not None and word["when"] < seen:
                raise StageFailed(word["reason"]) from error
            time.sleep(POLL_SECONDS)

    def _word(self) -> dict[str, Any] | None:
        """What another rank left when it failed in the present task: when and why."""
        for rank in range(1, self.size):
            key = f"failed-{self.task}-{rank}"
            if self.store.check([key]):
                word: dict[str, Any] = json.loads(self.store.get(key))
                return word
        return None

    # -- other ranks -------------------------------------------------------------------------

    def assist(self, plan: RunPlan) -> None:
        """Takes part in the stages that rank 0 calls this rank to, until it is dismissed."""
        stages = {stage.identity: stage for stage in plan.stages()}
        while True:
            task = self._next()
            if task["stage"] is None:
                self.store.set(f"left-{self.rank}", "")
                return
            if task["stage"] not in stages:
                raise self._failed(
                    StageFailed(
                        f"process {self.rank} planned another run than process 0: do they see the "
                        "same files and the same version of ablate?"
                    )
                )
            inputs = {role: Path(path) for role, path in task["inputs"].items()}
            partial = None if task["partial"] is None else Path(task["partial"])
            self._share(stages[task["stage"]], inputs, partial)

    def _next(self) -> dict[str, Any]:
        self.task += 1
        key = f"task-{self.task}"
        try:
            while not self.store.check([key]):
                time.sleep(POLL_SECONDS)
            task: dict[str, Any] = json.loads(self.store.get(key))
        except RuntimeError as error:
            raise StageFailed("the process that leads this run is gone") from error
        return task

    def _share(self, stage: Stage, inputs: dict[str, Path], partial: Path | None) -> None:
        """This rank's share of a stage; what it writes goes into a folder that is removed."""
        self.store.set(f"ready-{self.task}-{self.rank}", "")
        prepare_machine(stage.run, self.sharers)
        with tempfile.TemporaryDirectory(prefix="ablate-rank-") as private:
            context = Context(
                params=stage.params,
                inputs=inputs,
                out=Path(private),
                run=stage.run,
                report=lambda done, total, metrics: None,
                log=lambda step, metrics: None,
                leads=False,
                partial=partial,
            )
            try:
                share_weights(stage)
                compute_here(stage, context)
            except AblateError as error:
                raise self._failed(error) from error

    def _failed(self, error: AblateError) -> AblateError:
        """Leaves word of a failure; this rank must end now, or the others would wait for it."""
        reason = str(error)
        if isinstance(error, StageFailed):
            reason = f"{error} (process {self.rank} of {self.size})"
        word = {"when": time.time(), "reason": reason}
        self.store.set(f"failed-{self.task}-{self.rank}", json.dumps(word))
        return error
