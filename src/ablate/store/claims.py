"""Claims on stages: who computes what, kept alive by a heartbeat, taken over when it falls silent.

A claim only saves work: computing a stage twice is harmless, since publishing is a rename.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ablate.store.files import alive, write_json

HEARTBEAT_SECONDS = 15.0
SILENCE_SECONDS = 180.0
POLL_SECONDS = 0.2


class Claim:
    """A claim held by this process; `mkdir` is the atomic operation, right on NFS too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Writes who holds the claim and begins the heartbeat."""
        write_json(
            self.path / "owner.json",
            {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()},
        )
        (self.path / "heartbeat").touch()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Ends the heartbeat and frees the claim."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        discard(self.path)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                (self.path / "heartbeat").touch()


def discard(path: Path) -> None:
    """Removes a claim: renamed first, so that nobody sees it half removed."""
    grave = path.with_name(f"{path.name}.gone-{os.getpid()}-{time.monotonic_ns()}")
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return
    for child in grave.iterdir():
        child.unlink(missing_ok=True)
    grave.rmdir()


def silence(path: Path) -> float | None:
    """Seconds since the claim's last heartbeat by the file server's clock; None if it is gone.

    The age is taken between two files of the same server, because clocks of nodes differ.
    """
    probe = path.parent / f".clock-{os.getpid()}-{threading.get_ident()}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        beat = path / "heartbeat"
        last = (beat if beat.exists() else path).stat().st_mtime
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)
    return now - last


def owner_is_dead(path: Path) -> bool:
    """True where the owner ran on this host and its process is gone: no need to wait then."""
    try:
        owner = json.loads((path / "owner.json").read_text())
    except (OSError, ValueError):
        return False
    return owner["host"] == socket.gethostname() and not alive(owner["pid"])


def is_held(path: Path) -> bool:
    """Whether someone works under the claim now: it is there, and neither silent nor dead."""
    if not path.exists() or owner_is_dead(path):
        return False
    quiet = silence(path)
    return quiet is not None and quiet <= SILENCE_SECONDS


@contextlib.contextmanager
def claimed(path: Path, done: Callable[[], bool]) -> Iterator[Claim | None]:
    """Holds the claim, or yields None as soon as `done()` says that the work exists.

    Waits while another process holds it; takes over a claim whose owner is dead or silent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            if done():
                yield None
                return
            quiet = silence(path)
            if quiet is not None and (quiet > SILENCE_SECONDS or owner_is_dead(path)):
                discard(path)
                continue
            time.sleep(POLL_SECONDS)
            continue
        claim = Claim(path)
        try:
            claim.start()
            yield None if done() else claim
        finally:
            claim.release()
        return
