"""Files written whole or not at all: atomic JSON, directories published by rename, checksums."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ablate.errors import StoreError
from ablate.store import crash

MANIFEST = "manifest.json"


def write_json(path: Path, value: Any) -> None:
    """Writes JSON to a temporary file beside `path`, flushes it to disk and renames it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            # as any other new file: people of a group may share a store
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            json.dump(value, file, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        crash.point("json-before-rename")
        os.replace(temporary, path)
        crash.point("json-after-rename")
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@functools.cache
def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def read_json(path: Path) -> Any:
    """The JSON value of a file.

    Raises:
        StoreError: names the file if it cannot be read or parsed.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


def checksum(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(directory: Path) -> list[Path]:
    """All files below a directory, relative to it, in a fixed order."""
    return sorted(path.relative_to(directory) for path in directory.rglob("*") if path.is_file())


def write_manifest(directory: Path) -> None:
    """Records size and sha256 of every file below `directory`, after flushing each to disk.

    Libraries write some files for their owner alone: they get the mode of any other new file.
    """
    entries = {}
    for relative in list_files(directory):
        path = directory / relative
        path.chmod(0o666 & ~_umask())
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        entries[relative.as_posix()] = {"bytes": path.stat().st_size, "sha256": checksum(path)}
    write_json(directory / MANIFEST, entries)


def damage(directory: Path) -> str | None:
    """What is wrong with a published directory, or None when it equals its manifest."""
    try:
        entries = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read ({error})"
    for name, entry in entries.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"] or checksum(path) != entry["sha256"]:
            return f"{name} does not match its checksum"
    return None


def publish(source: Path, target: Path) -> bool:
    """Moves a finished directory to its final name; False if another process was first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    crash.point("publish-before-rename")
    try:
        os.rename(source, target)
    except OSError:
        if target.exists():
            return False
        raise
    crash.point("publish-after-rename")
    _flush_directory(target.parent)
    return True


#: what a disk says that is full, used up by quota, read-only, or broken
_TROUBLES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def disk_trouble(error: BaseException | None) -> str | None:
    """What the disk said, where an error or what led to it came of a disk that takes no more.

    Libraries that write for us report it in errors of their own, by its words alone.
    """
    while error is not None:
        for number in _TROUBLES:
            words = os.strerror(number)
            if getattr(error, "errno", None) == number or words in str(error):
                return words
        error = error.__cause__ or error.__context__
    return None


def _flush_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A private directory that is gone afterwards unless it was renamed away."""
    parent.mkdir(parents=True, exist_ok=True)
    path = private_name(parent, prefix)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_tree(path: Path, graveyard: Path) -> bool:
    """Removes a folder, renamed first so that nobody reads a half; False if it was gone."""
    graveyard.mkdir(parents=True, exist_ok=True)
    grave = private_name(graveyard, f"removed-{path.name[:40]}")
    crash.point("removal-before-rename")
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return False
    crash.point("removal-after-rename")
    shutil.rmtree(grave, ignore_errors=True)
    return True


def private_name(parent: Path, prefix: str) -> Path:
    """A name that nobody else uses and that tells whose it is, see `clear_abandoned`."""
    owner = f"{socket.gethostname()}.{os.getpid()}"
    return parent / f"{prefix}@{owner}@{secrets.token_hex(4)}"


def clear_abandoned(parent: Path) -> None:
    """Removes private directories of processes of this host that were killed."""
    if not parent.is_dir():
        return
    for path in parent.iterdir():
        host, _, pid = path.name.rpartition("@")[0].rpartition("@")[2].rpartition(".")
        if host == socket.gethostname() and pid.isdigit() and not alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def alive(pid: int) -> bool:
    """Whether a process of this host exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
