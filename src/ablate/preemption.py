"""The scheduler's wish that a job ends soon, and the code that can save its work first.

A signal ends the work at once, except inside `saving()`: there it only raises a flag, and whoever
opened the block looks at it, saves, and leaves by `Preempted`.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

#: exit code of a process that was asked to end and may be started again
EXIT_CODE = 75


class Preempted(BaseException):
    """Ends the work of a job that will be started again; no failure."""


class _Wish:
    def __init__(self) -> None:
        self.wanted = False
        self.savers = 0
        #: a second signal must not cut short what follows the first
        self.raised = False


_wish = _Wish()


def listen(*signals: signal.Signals) -> None:
    """From now on these signals are the scheduler's wish."""
    _wish.wanted = _wish.raised = False
    for number in signals:
        signal.signal(number, _hear)


def _hear(number: int, frame: FrameType | None) -> None:
    _wish.wanted = True
    if not _wish.savers and not _wish.raised:
        _wish.raised = True
        raise Preempted(signal.Signals(number).name)


def wanted() -> bool:
    """Whether this process was asked to end."""
    return _wish.wanted


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """A block whose owner polls `wanted`, saves what it did and raises `Preempted` itself."""
    _wish.savers += 1
    try:
        yield
    except Preempted:
        _wish.raised = True
        raise
    finally:
        _wish.savers -= 1
