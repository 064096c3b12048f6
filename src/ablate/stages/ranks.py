"""Several processes of this machine train one stage: started, watched, and ended together."""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ablate import preemption
from ablate.errors import AblateError, ConfigError, MemoryShort, StageFailed
from ablate.stages.compute import compute_here, prepare_machine, share_weights
from ablate.stages.context import Context, Log
from ablate.stages.forks import death, die_with_parent, fork_context, start
from ablate.stages.graph import Stage
from ablate.store.files import scratch

#: seconds for the other ranks to notice that one has failed and to say what they saw
GRACE_SECONDS = 3.0


class _LoggedOnce:
    """Passes lines of metrics on, of a training that is begun again those that are new."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._step = self._known = 0

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        if step > self._known:
            self._step, self._known = step, 0
            self._log(step, metrics)

    def begin_again(self) -> None:
        """What was logged so far will come again."""
        self._known = max(self._step, self._known)


@dataclass
class _Rank:
    number: int
    process: BaseProcess
    pipe: Any
    #: whether more may come through the pipe
    open: bool = True
    #: when it failed (None: not), and with what (None: it died without a word)
    failed: float | None = None
    error: AblateError | None = None
    #: by which wish of the scheduler it ended, after what it did was saved
    preempted: str | None = None


def compute_on_ranks(stage: Stage, context: Context, size: int) -> None:
    """Computes a stage that trains on `size` fresh processes of this machine.

    Rank 0 writes into the stage's folder; what others write goes into folders that are removed.
    The first failure ends all of them. No rank outlives this process. A wish of the scheduler is
    passed on to all ranks, which agree on the step after which they save and end. Where memory
    runs out in one, all begin again with half the tokens per forward pass.

    Raises:
        Preempted: the ranks ended because this process was asked to.
        StageFailed: a rank failed or died; the message says which and why.
        AblateError: what every rank refuses alike, as it is.
        ConfigError: fewer GPUs than ranks.
    """
    _check_gpus(stage, size)
    budget = context.budget
    once = _LoggedOnce(context.log)
    while True:
        try:
            _compute(stage, replace(context, budget=budget, log=once), size)
            return
        except MemoryShort as error:
            if budget is not None and error.budget["halvings"] <= budget["halvings"]:
                # not taken up: it would run out again and again
                raise
            budget = error.budget
            once.begin_again()
            print(
                f"{stage.title}: memory ran out in one of {size} processes; all begin again with "
                f"training.tokens_per_device={budget['tokens_per_device']}",
                file=sys.stderr,
            )
            for path in context.out.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _compute(stage: Stage, context: Context, size: int) -> None:
    """One try of the ranks."""
    with (
        scratch(context.out.parent, "ranks") as private,
        _rendezvous() as port,
        preemption.saving(),
    ):
        ranks: list[_Rank] = []
        try:
            _start(ranks, stage, context, size, port, private)
            _watch(ranks, context)
            _judge(ranks, stage)
        finally:
            _end(ranks)


def _check_gpus(stage: Stage, size: int) -> None:
    import torch

    if stage.run.runtime.device == "cpu" or not torch.cuda.is_available():
        return
    # what earlier stages left on the GPU that rank 0 is about to use
    torch.cuda.empty_cache()
    if torch.cuda.device_count() < size:
        raise ConfigError(
            f"runtime.processes={size}, but only {torch.cuda.device_count()} GPUs are visible; "
            "lower it, or free more GPUs (CUDA_VISIBLE_DEVICES)"
        )


@contextlib.contextmanager
def _rendezvous() -> Iterator[int]:
    """The port of a store through which ranks find each other; held here, so no port is guessed."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    try:
        yield store.port
    finally:
        del store


def _start(
    ranks: list[_Rank], stage: Stage, context: Context, size: int, port: int, private: Path
) -> None:
    """Starts ranks, each in the list before it runs: an interruption here finds them all."""
    forks = fork_context()
    for number in range(size):
        out = context.out
        if number:
            out = private / str(number)
            out.mkdir()
        mine, theirs = forks.Pipe(duplex=False)
        # what it reports goes through the pipe
        given = (context.inputs, out, context.partial, context.budget)
        arguments = (stage, *given, number, size, port, theirs)
        process = forks.Process(target=_rank, args=arguments, name=f"rank {number}")
        ranks.append(_Rank(number, process, mine))
        start(process)
        theirs.close()


def _watch(ranks: list[_Rank], context: Context) -> None:
    """Passes reports on until all ranks have ended well, or one has not."""
    deadline: float | None = None
    while any(rank.process.is_alive() or rank.open for rank in ranks):
        waiting: list[Any] = [rank.pipe for rank in ranks if rank.open]
        waiting += [rank.process.sentinel for rank in ranks if rank.process.is_alive()]
        connection.wait(waiting, timeout=0.5)
        if preemption.wanted():
            # again and again: a rank that only just began is deaf
            for pid in (rank.process.pid for rank in ranks if rank.process.is_alive()):
                assert pid is not None
                os.kill(pid, signal.SIGUSR2)
        for rank in ranks:
            _listen(rank, context)
            if not rank.open and not rank.process.is_alive() and rank.process.exitcode:
                rank.failed = rank.failed or time.time()
        # what was saved is whole when the first rank says so
        if deadline is None and any(rank.failed or rank.preempted for rank in ranks):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            return


def _listen(rank: _Rank, context: Context) -> None:
    """Takes what a rank has sent; its pipe is closed when it has ended."""
    try:
        while rank.open and rank.pipe.poll():
            word, *rest = rank.pipe.recv()
            if word == "report":
                context.report(*rest)
            elif word == "log":
                context.log(*rest)
            elif word == "preempted":
                (rank.preempted,) = rest
            else:
                rank.failed, rank.error = rest
    except (EOFError, OSError):
        rank.open = False
        rank.process.join(timeout=GRACE_SECONDS)


def _judge(ranks: list[_Rank], stage: Stage) -> None:
    """Raises the failure that came first: what others say follows from it."""
    wishes = [rank.preempted for rank in ranks if rank.preempted is not None]
    if wishes:
        raise preemption.Preempted(wishes[0])
    failed = [rank for rank in ranks if rank.failed is not None]
    if not failed:
        return
    # a rank that was killed says nothing, and the others notice before this process does; torch
    # aborts those whose connection to it breaks
    silent = [
        rank for rank in failed if rank.error is None and rank.process.exitcode != -signal.SIGABRT
    ]
    first = min(silent or failed, key=lambda rank: rank.failed or 0.0)
    where = f"process {first.number} of {len(ranks)}"
    if first.error is None:
        cause = death(first.process.exitcode)
        raise StageFailed(f"the stage '{stage.title}' failed in {where}: {cause}")
    if isinstance(first.error, StageFailed):
        failure = StageFailed(f"{first.error} ({where})")
        for note in getattr(first.error, "__notes__", []):
            failure.add_note(note)
        raise failure
    raise first.error


def _end(ranks: list[_Rank]) -> None:
    for rank in ranks:
        if rank.process.is_alive():
            rank.process.kill()
    for rank in ranks:
        if rank.process.pid is not None:
            rank.process.join()
        rank.pipe.close()


def _rank(
    stage: Stage,
    inputs: dict[str, Path],
    out: Path,
    partial: Path | None,
    budget: dict[str, int] | None,
    number: int,
    size: int,
    port: int,
    pipe: Any,
) -> None:
    """Entry of a rank's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # the process that started this one hears it, and tells all ranks
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    preemption.listen(signal.SIGUSR2)
    die_with_parent()
    os.environ.update(
        RANK=str(number),
        LOCAL_RANK=str(number),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        # the store is there already: no rank opens one of its own
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    leads = number == 0

    def report(*words: Any) -> None:
        if leads:
            pipe.send(("report", *words))

    def log(*words: Any) -> None:
        if leads:
            pipe.send(("log", *words))

    try:
        prepare_machine(stage.run, size)
        share_weights(stage)
        context = Context(stage.params, inputs, out, stage.run, report, log, leads, partial, budget)
        compute_here(stage, context)
        leave_group()
    except preemption.Preempted as wish:
        pipe.send(("preempted", str(wish)))
        pipe.close()
        os._exit(preemption.EXIT_CODE)
    except AblateError as error:
        pipe.send(("failed", time.time(), error))
        pipe.close()
        # at once: a rank that stayed would keep the others waiting for it
        os._exit(1)


def leave_group() -> None:
    """Leaves the process group that a trainer joined, if it did."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
