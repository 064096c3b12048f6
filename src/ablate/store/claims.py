"""Claims on stages: who computes what, kept alive by a heartbeat, taken over when it falls silent.

A claim only saves work: computing a stage twice is harmless, since publishing is a rename.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ablate.errors import StoreError
from ablate.store import crash
from ablate.store.files import alive, write_json

HEARTBEAT_SECONDS = 15.0
SILENCE_SECONDS = 180.0
POLL_SECONDS = 0.2

OWNER = "owner.json"
#: folders beside claims: not yet claimed, or no longer. The name ends with @host.pid@number
_PRIVATE = ".private@"


class Claim:
    """A claim held by this process: a folder that comes to be with its owner's name in it.

    A folder is renamed to `path`, which fails where another one with something in it is: atomic,
    and right on NFS too. Nobody ever sees a claim without an owner.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.token = secrets.token_hex(8)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> bool:
        """Tries to get the claim, and begins its heartbeat; False if somebody has it.

        Raises:
            StoreError: the store cannot be written.
        """
        private = _private(self.path)
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        try:
            private.mkdir(parents=True)
            write_json(private / OWNER, {**owner, "token": self.token})
            (private / "heartbeat").touch()
            crash.point("claim-before-rename")
            os.rename(private, self.path)
        except OSError as error:
            shutil.rmtree(private, ignore_errors=True)
            # a network file system may lose the answer to a rename that it made
            if owner_of(self.path).get("token") != self.token:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise StoreError(
                    f"the results folder cannot be written ({self.path}): {error.strerror}"
                ) from error
        crash.point("claim-after-rename")
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return True

    def release(self) -> None:
        """Ends the heartbeat and frees the claim, if it is still this one's."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        crash.point("claim-before-release")
        # a store that can no longer be written keeps the claim: its owner is dead before long
        with contextlib.suppress(OSError):
            discard(self.path, self.token)
        crash.point("claim-released")

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            # never made anew: after a takeover the folder is gone, or another's
            with contextlib.suppress(OSError):
                os.utime(self.path / "heartbeat")


def discard(path: Path, token: str | None) -> None:
    """Removes the claim with this token: renamed first, so that nobody sees it half removed.

    Another's claim, taken since the token was read, is put back.
    """
    grave = _private(path)
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return
    crash.point("claim-half-released")
    if owner_of(grave).get("token") != token:
        with contextlib.suppress(OSError):
            os.rename(grave, path)
            return
    shutil.rmtree(grave, ignore_errors=True)


def silence(path: Path) -> float | None:
    """Seconds since the claim's last heartbeat by the file server's clock; None if it is gone.

    The age is taken between two files of the same server, because clocks of nodes differ.
    """
    probe = _private(path)
    try:
        probe.touch()
        now = probe.stat().st_mtime
        beat = path / "heartbeat"
        last = (beat if beat.exists() else path).stat().st_mtime
    except OSError:
        return None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return now - last


def owner_is_dead(path: Path) -> bool:
    """True where the owner ran on this host and its process is gone: no need to wait then."""
    owner = owner_of(path)
    return owner.get("host") == socket.gethostname() and not alive(owner["pid"])


def is_held(path: Path) -> bool:
    """Whether someone works under the claim now: it is there, and neither silent nor dead."""
    if not path.exists() or owner_is_dead(path):
        return False
    quiet = silence(path)
    return quiet is not None and quiet <= SILENCE_SECONDS


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds a claim that nobody else wants, to be seen by others, while the block lasts.

    Raises:
        StoreError: the store cannot be written.
    """
    claim = Claim(path)
    claim.take()
    try:
        yield
    finally:
        claim.release()


@contextlib.contextmanager
def claimed(path: Path, done: Callable[[], bool]) -> Iterator[Claim | None]:
    """Holds the claim, or yields None as soon as `done()` says that the work exists.

    Waits while another process holds it; takes over a claim whose owner is dead or silent.

    Raises:
        StoreError: the store cannot be written.
    """
    claim = Claim(path)
    while not claim.take():
        if done():
            yield None
            return
        token = owner_of(path).get("token")
        quiet = silence(path)
        if quiet is not None and (quiet > SILENCE_SECONDS or owner_is_dead(path)):
            crash.point("takeover-before")
            discard(path, token)
            crash.point("takeover-after")
            continue
        time.sleep(POLL_SECONDS)
    try:
        yield None if done() else claim
    finally:
        claim.release()


def clear_abandoned(folder: Path) -> None:
    """Removes claims of processes of this host that are gone, and what they left beside them."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if is_private(path):
            host, _, pid = path.name.split("@")[1].rpartition(".")
            if host == socket.gethostname() and pid.isdigit() and not alive(int(pid)):
                shutil.rmtree(path, ignore_errors=True)
                path.unlink(missing_ok=True)
        elif owner_is_dead(path):
            discard(path, owner_of(path).get("token"))


def owner_of(path: Path) -> dict[str, Any]:
    """Who holds a claim; nothing where that cannot be read."""
    try:
        return dict(json.loads((path / OWNER).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def is_private(path: Path) -> bool:
    """Whether a folder beside claims is none itself: not yet claimed, or no longer."""
    return _PRIVATE in path.name


def _private(path: Path) -> Path:
    """A name beside the claim that only this thread uses."""
    number = f"{threading.get_ident()}-{time.monotonic_ns()}"
    return path.with_name(f"{path.name}{_PRIVATE}{socket.gethostname()}.{os.getpid()}@{number}")
