"""Fresh processes in milliseconds: a fork server that has torch and TRL and never saw CUDA."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext

from ablate import preemption

#: imported once by the fork server
PRELOAD = ["ablate.stages.preload"]


def fork_context() -> ForkServerContext:
    """The context whose processes are forked from the server, which is started if it is not there.

    The server starts deaf to Ctrl-C: it must not die in the middle of its imports.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    if threading.current_thread() is threading.main_thread():
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, heard)
    return context


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
    return f"its process ended with exit code {code}"
