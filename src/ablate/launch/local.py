"""The local pool: jobs of a sweep on this machine, each in a fresh process of its own.

Processes are forked from a server that has imported torch and TRL and has never touched CUDA, so
a job starts in milliseconds and its end, however violent, costs nobody else anything.
"""

import contextlib
import functools
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ablate.launch import failed
from ablate.launch.jobs import Job, jobs_of
from ablate.launch.sweep import Sweep
from ablate.launch.witness import Witness, is_published
from ablate.launch.worker import work
from ablate.stages.complete import run_name
from ablate.stages.forks import death, fork_context, start
from ablate.stages.graph import RunPlan
from ablate.store import records
from ablate.store.files import read_json

#: a stage whose process died without a word is tried once more, for many runs may need it
STAGE_RESTARTS = 1


@dataclass(frozen=True)
class RunOutcome:
    """How one run of a sweep ended: done, diverged, failed, or stored (it was there before)."""

    identity: str
    name: str
    status: str
    reason: str | None = None
    log: Path | None = None


@dataclass
class State:
    """What a display may show while the pool works."""

    runs: int
    finished: list[RunOutcome] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    jobs_done: int = 0
    jobs: int = 0
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Active:
    """A job under way: its process, the file for its outcome, its log."""

    job: Job
    process: BaseProcess
    outcome: Path
    log: Path
    witness: Witness


Show = Callable[[State], None]


def run_locally(sweep: Sweep, workers: int, show: Show, max_restarts: int = 0) -> list[RunOutcome]:
    """Runs what the store lacks, at most `workers` jobs at a time.

    A run that fails, is killed or runs out of memory costs the others nothing; a stage that cannot
    be computed fails the runs that need it and no others.

    Args:
        show: called whenever something changes.
        max_restarts: how often a job whose process died without a word is started again; that of a
            stage at least once.
    """
    pool = _Pool(sweep, workers, show, max_restarts)
    try:
        return pool.run()
    finally:
        pool.stop()


class _Pool:
    def __init__(self, sweep: Sweep, workers: int, show: Show, max_restarts: int = 0) -> None:
        self.sweep, self.workers, self.show = sweep, workers, show
        self.max_restarts = max_restarts
        self.restarts: Counter[str] = Counter()
        names = self.names = {i: run_name(planned) for i, planned in sweep.plans.items()}
        self.waiting, stored = jobs_of(sweep)
        self.state = State(runs=len(sweep.plans), jobs=len(self.waiting))
        self.state.finished = [RunOutcome(i, names[i], "stored") for i in stored]
        self.active: dict[Any, Active] = {}
        #: GPUs that no job uses now; with more jobs than GPUs some are shared
        gpus = visible_gpus()
        self.each = processes_of(list(sweep.plans.values()))
        count = workers * self.each
        self.free_gpus = [gpus[i % len(gpus)] for i in range(count)] if gpus else []
        self.gpus_of: dict[str, list[str]] = {}
        self.failed: dict[str, str] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="ablate-pool-"))
        self.logs = sweep.folder / "logs"

    def run(self) -> list[RunOutcome]:
        if self.waiting:
            self.logs.mkdir(parents=True, exist_ok=True)
        self.show(self.state)
        while self.waiting or self.active:
            self._start()
            if self.active:
                for sentinel in connection.wait(list(self.active), timeout=1.0):
                    self._end(sentinel)
            self.show(self.state)
        order = list(self.sweep.plans)
        return sorted(self.state.finished, key=lambda outcome: order.index(outcome.identity))

    @functools.cached_property
    def context(self) -> ForkServerContext:
        """Its server imports torch and TRL: nothing for a sweep that is finished."""
        return fork_context()

    def stop(self) -> None:
        """Ends what still runs: politely, so that stages stay whole or absent, then by force."""
        processes = [entry.process for entry in self.active.values()]
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        for process in processes:
            process.join(timeout=20)
            if process.is_alive():
                process.kill()
                process.join()
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def _start(self) -> None:
        for job in list(self.waiting):
            broken = self._broken(job)
            if broken is not None:
                self.waiting.remove(job)
                self._fail(job, broken, None)
            elif len(self.active) < self.workers and not self._pending(job):
                self.waiting.remove(job)
                self._spawn(job)

    def _broken(self, job: Job) -> str | None:
        """Why a job cannot be: a stage that it needs failed, and nobody else published it."""
        lost = [need for need in sorted(job.needs) if need in self.failed]
        if not lost or self._witness(job).published():
            return None
        layout = self.sweep.layout
        return next((self.failed[need] for need in lost if not is_published(layout, need)), None)

    def _witness(self, job: Job) -> Witness:
        run = job.frozen.stem
        return Witness(
            self.sweep.layout, run, job.stage, self.sweep.plans[run].run.force is not False
        )

    def _pending(self, job: Job) -> bool:
        open_jobs = {other.key for other in self.waiting}
        open_jobs |= {entry.job.key for entry in self.active.values()}
        return bool(job.needs & open_jobs)

    def _spawn(self, job: Job) -> None:
        outcome = self.folder / f"{job.key}.json"
        log = self.logs / job.log_name
        gpus = self._take_gpus(job.key)
        environment = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
        arguments = (str(job.frozen), job.stage, str(outcome), str(log), environment)
        # that of an earlier try
        outcome.unlink(missing_ok=True)
        witness = self._witness(job)
        process = self.context.Process(target=work, args=arguments, name=job.title)
        start(process)
        self.active[process.sentinel] = Active(job, process, outcome, log, witness)
        self._name_running()

    def _take_gpus(self, key: str) -> str | None:
        """The GPUs of a job, one per process, as CUDA_VISIBLE_DEVICES; None without GPUs."""
        taken, self.free_gpus = self.free_gpus[: self.each], self.free_gpus[self.each :]
        self.gpus_of[key] = taken
        # one GPU more than once in the list would hide those after it
        return ",".join(dict.fromkeys(taken)) if taken else None

    def _end(self, sentinel: Any) -> None:
        entry = self.active.pop(sentinel)
        entry.process.join()
        job, code = entry.job, entry.process.exitcode
        self.free_gpus += self.gpus_of.pop(job.key)
        self._name_running()
        result: dict[str, Any] = read_json(entry.outcome) if entry.outcome.exists() else {}
        # the store has the last word: a process may have died, or failed, after it had published
        if code == 0 and result:
            self._done(entry, result["status"])
        elif entry.witness.published():
            self._done(entry, records.status(self.sweep.layout, job.run) or "done")
        elif "reason" in result:
            self._fail(job, result["reason"], entry)
        elif self.restarts[job.key] < self._restarts(job):
            self.restarts[job.key] += 1
            self.waiting.insert(0, job)
        else:
            end = death(code)
            self._fail(job, end if job.stage is None else f"the stage '{job.title}': {end}", entry)

    def _restarts(self, job: Job) -> int:
        return self.max_restarts if job.stage is None else max(self.max_restarts, STAGE_RESTARTS)

    def _done(self, entry: Active, status: str) -> None:
        job = entry.job
        self.state.jobs_done += 1
        if job.stage is None:
            done = RunOutcome(job.run, self.names[job.run], status, log=entry.log)
            self.state.finished.append(done)

    def _fail(self, job: Job, reason: str, entry: Active | None) -> None:
        """Notes a failure; `entry` is None where the job was never begun."""
        self.failed[job.key] = reason
        # what the job itself left in the store tells more
        if job.stage is None and (entry is None or not entry.witness.told()):
            # on a store that takes no more the screen alone is told
            with contextlib.suppress(OSError):
                attempt = records.new_attempt(self.sweep.layout, job.run)
                records.write_failure(attempt, self.names[job.run], reason, None)
        if job.stage is not None and entry is not None:
            with contextlib.suppress(OSError):
                failed.note(self.sweep.folder, job.stage, reason, job.log_name)
        self.state.jobs_done += 1
        if job.stage is None:
            log = None if entry is None else entry.log
            self.state.finished.append(
                RunOutcome(job.run, self.names[job.run], "failed", reason, log)
            )

    def _name_running(self) -> None:
        self.state.running = [
            self.names[entry.job.run] if entry.job.stage is None else entry.job.title
            for entry in self.active.values()
        ]


def default_workers(plans: list[RunPlan]) -> int:
    """One training process per GPU, or per core; no more jobs than there are runs."""
    places = len(visible_gpus()) or os.cpu_count() or 1
    return max(1, min(places // processes_of(plans), len(plans)))


def processes_of(plans: list[RunPlan]) -> int:
    """Processes that a job of a sweep may start (runtime.processes, the largest)."""
    return max((planned.run.runtime.processes for planned in plans), default=1)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, found without touching CUDA."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
