"""The row of a run in `load`: what its record says, flat, whatever schema wrote it."""

from pathlib import Path
from typing import Any

from ablate.errors import StoreError
from ablate.results.migrate import check_schema, migrated
from ablate.store import files, records
from ablate.store.records import Record

FACTORS = {
    "objective": ("objective", "name"),
    "num_responses": ("num_responses", "k"),
    "reward": ("reward", "name"),
    "shaping": ("shaping", "name"),
    "base_model": ("base_model", "name"),
    "dataset": ("dataset", "name"),
    "collection": ("collection", "name"),
    "seed": ("seed", "value"),
}
#: the level of a factor in records made before there was a choice
BEFORE = {"shaping": "none"}
#: numbers of a run as a whole
WHOLE = ("tokens_trained", "tokens_generated", "device_seconds", "finished")


def checked(record: Record) -> Record:
    """A record that equals its checksum, in the form of this version's schema.

    Raises:
        StoreError: it is damaged, or of a schema that this version cannot read.
    """
    if not isinstance(record.data, dict):
        raise StoreError(f"{record.path / 'record.json'} holds no record")
    check_schema(record)
    verify(record.path, "record.json")
    return migrated(record)


def checked_row(record: Record) -> dict[str, Any]:
    """The row of a record that is whole and holds what it must.

    Raises:
        StoreError: as `checked`, or something is not there.
    """
    try:
        return row(checked(record))
    except (KeyError, TypeError, AttributeError) as error:
        path = record.path / "record.json"
        raise StoreError(f"{path} lacks what a record holds: {error}") from error


def row(record: Record) -> dict[str, Any]:
    """The row of one record in `load`."""
    data = record.data
    git = data["provenance"]["git"]
    result: dict[str, Any] = {
        "id": record.identity,
        "name": data["name"],
        "status": data["status"],
        "revision": record.revision,
    }
    result |= settings(data["config"])
    for metric, splits in data["metrics"].items():
        for split, estimate in splits.items():
            result[f"{metric}/{split}"] = estimate["mean"]
            result[f"{metric}/{split}/se"] = estimate["se"]
            result[f"{metric}/{split}/n"] = estimate["n"]
    result |= {f"reward.{path}": value for path, value in records.flat(data["reward"])}
    result |= {f"stage.{stage['role']}": stage["id"] for stage in data["stages"]}
    result |= {key: data[key] for key in WHOLE}
    result["commit"] = git["commit"] if git else None
    result["changed_files"] = len(git["dirty_files"]) if git else None
    result |= _origin(data)
    result["path"] = str(record.path)
    return result


def _origin(data: dict[str, Any]) -> dict[str, Any]:
    """Versions and machine, without the names of hosts and the ids of jobs."""
    told = {f"machine.{path}": value for path, value in records.flat(data["machine"])}
    for path, value in records.flat(data["provenance"]):
        if path != "host" and not path.startswith(("git", "scheduler")):
            told[f"provenance.{path}"] = value
    return told


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The columns of a frozen configuration: its factors, and every setting as `config.<path>`."""
    factors = {
        factor: config[group][key] if group in config else BEFORE[factor]
        for factor, (group, key) in FACTORS.items()
    }
    return factors | {f"config.{path}": value for path, value in records.flat(config)}


def verify(folder: Path, name: str) -> None:
    """Compares one file of a published folder with its checksum.

    Raises:
        StoreError: the file, or the manifest, is damaged or missing.
    """
    entry = files.read_json(folder / files.MANIFEST).get(name)
    if entry is None or not (folder / name).is_file():
        raise StoreError(f"{folder / name} is missing")
    if files.checksum(folder / name) != entry["sha256"]:
        raise StoreError(f"{folder / name} does not match its checksum")
