"""What a SLURM job runs: its share of a sweep, each piece in a process of its own.

The scheduler's signals come here: SIGUSR2 (the time limit is near) is passed on, the work saves
what it can, and the job is queued again; SIGTERM (preempted or cancelled) saves and ends, and
whether the job comes back is the scheduler's affair. A job of several tasks trains with all of
them: task 0 leads, and has the say.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from ablate import preemption
from ablate.errors import AblateError, SchedulerError
from ablate.launch import failed, scheduler
from ablate.launch.jobs import PROMISED
from ablate.launch.second_phase import resolve
from ablate.launch.sweep import thaw
from ablate.launch.tasks import own_tasks
from ablate.launch.tuning import settle
from ablate.launch.witness import Witness
from ablate.launch.worker import work
from ablate.stages.forks import death, fork_context, start
from ablate.store import records
from ablate.store.files import read_json
from ablate.store.layout import Layout
from ablate.store.stages import StageStore

#: (frozen run, identity of the stage or None for the run, name of the log)
Piece = tuple[str, str | None, str]
#: pause before a requeue that failed is asked for again: at first, and at most
REQUEUE_SECONDS = (1.0, 60.0)


def run(folder: str, root: str, pieces: Sequence[Piece], name: str, max_requeues: int) -> str:
    """Works on the pieces in order; one that fails costs the others nothing.

    Args:
        folder: the sweep's folder.
        root: the results folder.
        name: what this job is called in messages.
        max_requeues: how often this job may be queued again.

    Returns:
        one word per piece: done, failed or stored; of a task that only assists: assisted or idle.

    Raises:
        RuntimeError: a piece failed; the scheduler then shows the job as failed.
    """
    job = _Job(Path(folder), Layout(Path(root)), pieces, max_requeues)
    if not job.tasks.leads:
        return " ".join(job.assist(number) for number in range(len(pieces)))
    words = [job.piece(number) for number in range(len(pieces))]
    if "failed" in words:
        raise RuntimeError(f"{words.count('failed')} of {len(words)} pieces of {name} failed")
    return " ".join(words)


def choose(folder: str) -> str:
    """Ends the first phase of a sweep: chooses among the trials of every arm, and freezes.

    Raises:
        RuntimeError: an arm had no finished trial; the others are chosen all the same.
    """
    without = settle(Path(folder))
    if without:
        raise RuntimeError(f"{len(without)} arms have no finished trial to choose")
    return "done"


class _Job:
    def __init__(
        self, folder: Path, layout: Layout, pieces: Sequence[Piece], max_requeues: int
    ) -> None:
        self.folder, self.layout, self.max_requeues = folder, layout, max_requeues
        #: what is not done yet
        self.left = list(pieces)
        self.child: BaseProcess | None = None
        self.asked: signal.Signals | None = None
        self.tasks = own_tasks(folder, _own_id())
        (folder / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._hear)
        self.context = fork_context()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # the end is the end, whatever is said after it
        if self.asked is not signal.SIGTERM:
            self.asked = signal.Signals(number)
        child = self.child
        if child is not None and child.pid is not None and child.is_alive():
            os.kill(child.pid, signal.SIGUSR2)

    def assist(self, number: int) -> str:
        """Another task's share of a piece; what became of it is task 0's to tell."""
        frozen, stage, log = self.left.pop(0)
        ranks = self.tasks.hear(number, self._end_if_asked)
        if ranks is None:
            return "idle"
        own = log.replace(".log", f".{self.tasks.rank}.log")
        code, result = self._run_child(str(resolve(Path(frozen))), stage, own, ranks)
        if code:
            self._end_if_asked()
            print(f"{log}: {result.get('reason') or death(code)}", file=sys.stderr)
        return "assisted"

    def piece(self, number: int) -> str:
        """done, failed or stored."""
        frozen, stage, log = self.left[0]
        word = self._decided(frozen, stage, log)
        ranks = self.tasks.tell(number, goes=word is None)
        word = word or self._piece(str(resolve(Path(frozen))), stage, log, ranks)
        self.left.pop(0)
        return word

    def _decided(self, frozen: str, stage: str | None, log: str) -> str | None:
        """What becomes of a piece without any work; None where there is work to do."""
        try:
            path = resolve(Path(frozen))
            if self._stored(path, stage):
                return "stored"
            self._end_if_asked()
            cause = self._failed_stage(path, stage)
            if cause is None:
                return None
            if stage is None:
                self._note_run(path.stem, cause)
            print(cause, file=sys.stderr)
            return "failed"
        except AblateError as error:
            # the frozen run itself cannot be read, or is no longer what it was
            self._note(Path(frozen), stage, log, str(error))
            print(error, file=sys.stderr)
            return "failed"

    def _piece(self, frozen: str, stage: str | None, log: str, ranks: dict[str, str]) -> str:
        forced = read_json(Path(frozen))["force"] is not False
        witness = Witness(self.layout, Path(frozen).stem, stage, forced)
        alone = self.tasks.size == 1
        # many runs may need a stage, so one whose process died without a word is tried once more
        for _ in range(2 if stage is not None and alone else 1):
            code, result = self._run_child(frozen, stage, log, ranks)
            # the store has the last word: a process may have died after it had published
            if (code == 0 and result) or witness.published():
                return "done"
            if "reason" in result:
                break
            self._end_if_asked()
        reason = result.get("reason") or death(code)
        print(f"{log}: {reason}", file=sys.stderr)
        with contextlib.suppress(OSError):
            if stage is None and not witness.told():
                self._note_run(Path(frozen).stem, reason)
            elif stage is not None and ("reason" in result or alone):
                failed.note(self.folder, stage, reason, log)
            # else the tasks of another job may do what these could not: no word against the stage
        return "failed"

    def _run_child(
        self, frozen: str, stage: str | None, log: str, environment: dict[str, str]
    ) -> tuple[int | None, dict[str, Any]]:
        """Exit code of the process that did a piece, and what it said of it."""
        with tempfile.TemporaryDirectory(prefix="ablate-node-") as private:
            outcome = Path(private) / "outcome.json"
            where = (str(outcome), str(self.folder / "logs" / log), environment)
            self.child = self.context.Process(target=work, args=(frozen, stage, *where))
            start(self.child)
            while self.child.is_alive():
                # short waits, because a signal is heard between them; and told again, because a
                # child that only just began was deaf
                self.child.join(timeout=0.5)
                if self.asked is not None:
                    self._hear(self.asked, None)
            code = self.child.exitcode
            self.child = None
            return code, read_json(outcome) if outcome.exists() else {}

    def _stored(self, frozen: Path, stage: str | None) -> bool:
        if stage is None:
            # a forced run of the sweep is not stored before its own revision is
            forced = read_json(frozen)["force"] is not False
            return not forced and records.latest(self.layout, frozen.stem) is not None
        planned = next((s for s in thaw(frozen).stages() if s.identity == stage), None)
        return planned is not None and StageStore(self.layout).exists(planned.name, stage)

    def _failed_stage(self, frozen: Path, wanted: str | None) -> str | None:
        """Why a stage (None: the run) cannot be: one that it needs failed and is not there."""
        store, stages = StageStore(self.layout), thaw(frozen).stages()
        if wanted is not None:
            stages = [s for s in stages if s.identity == wanted]
            stages = [needed for s in stages for needed in s.walk() if needed.identity != wanted]
        for stage in stages:
            found = failed.find(self.folder, stage.identity)
            if found is not None and not store.exists(stage.name, stage.identity):
                return f"the stage '{stage.title}' failed: {found['reason']}"
        return None

    def _note(self, frozen: Path, stage: str | None, log: str, reason: str) -> None:
        if stage is not None:
            failed.note(self.folder, stage, reason, log)
        elif frozen.parent.name != PROMISED:
            self._note_run(frozen.stem, reason)

    def _note_run(self, identity: str, reason: str) -> None:
        attempt = records.new_attempt(self.layout, identity)
        records.write_failure(attempt, failed.name_of(self.folder, identity), reason, None)

    def _end_if_asked(self) -> None:
        """Leaves the machine, if it is wanted; the job is queued again where its time was up."""
        if self.asked is None:
            return
        job = _own_id()
        count = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if self.asked is signal.SIGUSR2 and not self.tasks.leads:
            # task 0 sees to it, and SLURM ends this process
            self._wait_for_the_end()
        elif self.asked is not signal.SIGUSR2:
            print(f"ended by {self.asked.name}", file=sys.stderr)
        elif count >= self.max_requeues:
            self._give_up(
                f"its time was up (hydra.launcher.timeout_min) after it was queued again {count} "
                f"times, and hydra.launcher.max_num_timeout={self.max_requeues} allows no more"
            )
        elif job is not None:
            print(f"queued again ({count + 1} of {self.max_requeues})", file=sys.stderr)
            sys.stderr.flush()
            self._requeue(job)
        sys.exit(preemption.EXIT_CODE)

    def _requeue(self, job: str) -> None:
        """Asks for it until the scheduler, which may be restarting, has done it or the time is up.

        Nothing may be reported as done meanwhile.
        """
        pause, longest = REQUEUE_SECONDS
        while True:
            try:
                scheduler.requeue(job)
            except SchedulerError as error:
                print(f"{error}; asked again in {pause:.0f} s", file=sys.stderr, flush=True)
                self._wait_for_the_end(pause)
                if self.asked is not signal.SIGUSR2:
                    self._give_up(f"its time was up, and it could not be queued again: {error}")
                    return
                pause = min(2 * pause, longest)
            else:
                # SLURM ends this process
                self._wait_for_the_end(60)
                return

    def _wait_for_the_end(self, seconds: float | None = None) -> None:
        """Until SLURM says that this process ends now, or for so long."""
        end = time.monotonic() + (seconds or float("inf"))
        while self.asked is signal.SIGUSR2 and time.monotonic() < end:
            time.sleep(0.2)

    def _give_up(self, reason: str) -> None:
        """Leaves word, for all that this job did not come to, that nobody works on it any more."""
        print(reason, file=sys.stderr)
        for frozen, stage, log in self.left:
            # what cannot be read, or is not chosen yet, is told by whoever tries next
            with contextlib.suppress(AblateError):
                path = resolve(Path(frozen))
                if not self._stored(path, stage):
                    self._note(path, stage, log, reason)


def _own_id() -> str | None:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")
