"""Files of a public dataset: found in a folder or on the hub, identified, and read row by row."""

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ablate.config.dataset import PublicConfig
from ablate.errors import DataError

PARTS = ("main", "test", "ood")
_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_PACKED = (".gz", ".zst", ".bz2", ".xz")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where the rows of a dataset lie. `content` is plain data that decides them."""

    place: str
    content: dict[str, Any]
    #: paths or hub addresses by part
    files: dict[str, list[str]]


def find_source(config: PublicConfig) -> Source:
    """The files of a dataset: those of `path`, else those of the hub id.

    Raises:
        DataError: no such folder or file, no file of a pattern, or a hub id that is neither in
            reach nor in the local cache.
    """
    if config.path is not None:
        path = Path(config.path).expanduser()
        if path.is_file():
            return Source(str(path), {"files": {path.name: _sha256(path)}}, {"main": [str(path)]})
        if not path.is_dir():
            raise DataError(
                f"{path}: no such file or folder; set dataset.path to a folder with the files of "
                f"{config.hub}, or to one file of its schema"
            )
        files = _in_folder(path, config)
        names = {
            str(Path(file).relative_to(path)): _sha256(Path(file))
            for part in files.values()
            for file in part
        }
        return Source(str(path), {"files": names}, files)
    return _streamed(config) if config.streaming else _downloaded(config)


def read_records(files: list[str], columns: tuple[str, ...], hub: str) -> Iterator[dict[str, Any]]:
    """The rows of some files, one after the other, through `datasets.load_dataset`.

    Raises:
        DataError: a file that cannot be read, or whose rows lack a column.
    """
    # imported here: only a run on such a dataset needs it
    import datasets

    # what it would log is in the error that we tell
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
    for file in files:
        builder = _BUILDERS.get(_suffix(file))
        if builder is None:
            raise DataError(
                f"{file}: unknown kind of file; known are {', '.join(_BUILDERS)}, also packed as "
                f"{', '.join(_PACKED)}"
            )
        checked = False
        try:
            # read as a stream also from disk: no second copy of the rows in a cache
            for record in datasets.load_dataset(
                builder, data_files=[file], split="train", streaming=True
            ):
                if not checked:
                    _check_columns(file, record, columns, hub)
                    checked = True
                yield record
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            cause = error.__cause__ or error
            first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            raise DataError(f"{file}: cannot be read ({first})") from error


def _check_columns(file: str, record: dict[str, Any], columns: tuple[str, ...], hub: str) -> None:
    lacking = [name for name in columns if name not in record]
    if lacking:
        raise DataError(
            f"{file}: lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)} of the "
            f"schema of {hub}. Found: {', '.join(record)}"
        )


def _suffix(file: str) -> str:
    path = Path(file)
    return Path(path.stem).suffix if path.suffix in _PACKED else path.suffix


def _patterns(config: PublicConfig) -> dict[str, list[str]]:
    return {part: list(getattr(config.files, part)) for part in PARTS}


def _in_folder(folder: Path, config: PublicConfig) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for part, patterns in _patterns(config).items():
        files[part] = []
        for pattern in patterns:
            found = sorted(str(path) for path in folder.glob(pattern) if path.is_file())
            if not found:
                there = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
                raise DataError(
                    f"{folder} has no file {pattern} (dataset.files.{part}); it holds "
                    f"{', '.join(there[:8]) or 'nothing'}. Give dataset.files.{part} the names "
                    f"that it has{', or [] for none' if part != 'main' else ''}"
                )
            files[part] += found
    return files


def _downloaded(config: PublicConfig) -> Source:
    """The snapshot of a hub id in the local cache, fetched where the hub is in reach."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = _patterns(config)
    patterns = sorted({pattern for part in wanted.values() for pattern in part})

    def snapshot(here: bool) -> Source:
        folder = Path(
            snapshot_download(
                config.hub,
                repo_type="dataset",
                revision=config.revision,
                allow_patterns=patterns,
                local_files_only=here,
            )
        )
        content = {"hub": config.hub, "commit": folder.name, "files": wanted}
        return Source(f"{config.hub} at {folder.name[:12]}", content, _in_folder(folder, config))

    if config.revision is not None and re.fullmatch("[0-9a-f]{40}", config.revision):
        # a commit never changes: what the cache has of it needs no network
        with contextlib.suppress(LocalEntryNotFoundError, DataError):
            return snapshot(here=True)
    # what it would say of every new attempt is in the error that we tell
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return snapshot(here=False)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _out_of_reach(config) from error


def _streamed(config: PublicConfig) -> Source:
    """Addresses of the files on the hub, of which only as much is read as is needed."""
    from huggingface_hub import HfApi, HfFileSystem
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        info = HfApi().dataset_info(config.hub, revision=config.revision)
        commit = str(info.sha)
        system = HfFileSystem()
        files = {
            part: [
                f"hf://{name}"
                for pattern in patterns
                for name in sorted(
                    map(str, system.glob(f"datasets/{config.hub}@{commit}/{pattern}"))
                )
            ]
            for part, patterns in _patterns(config).items()
        }
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise _out_of_reach(config) from error
    content = {"hub": config.hub, "commit": commit, "files": _patterns(config)}
    return Source(f"{config.hub} at {commit[:12]}", content, files)


def _out_of_reach(config: PublicConfig) -> DataError:
    revision = f" --revision {config.revision}" if config.revision else ""
    return DataError(
        f"dataset={config.name}: the hub cannot be reached and {config.hub} is not in the local "
        f"cache. On a machine with network run\n"
        f"hf download {config.hub} --repo-type dataset{revision} --local-dir FOLDER\n"
        "and give dataset.path=FOLDER"
    )


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256_of(path: Path, size: int, changed: int) -> str:
    """Remembered by size and time within a process, since these files can be large."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
