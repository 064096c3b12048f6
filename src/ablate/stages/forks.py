"""Fresh processes in milliseconds: a fork server that has torch and TRL and never saw CUDA."""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

from ablate import preemption
from ablate.errors import ConfigError

#: how long the death of a server takes to be seen
RESTART_SECONDS = 0.5
#: exit code of a process that was interrupted, as shells have it
INTERRUPTED = 130
#: imported once by the fork server
PRELOAD = ["ablate.stages.preload"]


def fork_context() -> ForkServerContext:
    """The context whose processes are forked from the server, which is started if it is not there.

    The server starts deaf to Ctrl-C, and to the scheduler's signals, which SLURM sends to every
    process of a job: it must not die, or nobody would learn how its children end.

    Raises:
        ConfigError: the folder for temporary files cannot hold the server's socket.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    if threading.current_thread() is threading.main_thread():
        deaf = (signal.SIGINT, signal.SIGUSR2, signal.SIGTERM)
        heard = {number: signal.signal(number, signal.SIG_IGN) for number in deaf}
        try:
            forkserver.ensure_running()
        except OSError as error:
            raise ConfigError(
                f"no process can be started from the folder for temporary files: {error}. Set "
                f"TMPDIR to another, with a short path (it is {tempfile.gettempdir()})"
            ) from error
        finally:
            for number, handler in heard.items():
                signal.signal(number, handler)
    return context


def start(process: BaseProcess) -> None:
    """Starts a process of the fork server; again where the server was killed meanwhile."""
    for last in (False, False, True):
        try:
            process.start()
            return
        except (EOFError, ConnectionError):
            # the next try finds the server gone and begins another
            if last:
                raise
            time.sleep(RESTART_SECONDS)


def die_with_parent() -> None:
    """From now on this process is killed as soon as the one that started it is gone."""
    threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def death(code: int | None) -> str:
    """How a process ended that left no word, from its exit code (negative: a signal)."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
    if code == preemption.EXIT_CODE:
        return (
            "its process was asked to end and saved what it could; another try goes on from there"
        )
    if code == INTERRUPTED:
        return "its process was interrupted (SIGINT)"
    return f"its process ended with exit code {code}"
