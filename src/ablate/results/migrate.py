"""Records of older schemas, brought to this version's when they are read; no file is changed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablate.errors import StoreError
from ablate.stages.registry import KINDS
from ablate.store.records import SCHEMA, Record


def check_schema(record: Record) -> None:
    """Refuses a record that neither this version nor a migration can read.

    Raises:
        StoreError: says what to do.
    """
    if record.data.get("schema") not in (*_STEPS, SCHEMA):
        raise StoreError(_refusal(record.data, record.path))


def migrated(record: Record) -> Record:
    """The record in the form of schema `SCHEMA`.

    Raises:
        StoreError: as `check_schema`.
    """
    check_schema(record)
    data = record.data
    while data["schema"] != SCHEMA:
        data = _STEPS[data["schema"]](data)
    return replace(record, data=data)


def _refusal(data: dict[str, Any], path: Path) -> str:
    told = (
        f"{path / 'record.json'} is of schema {data.get('schema')}, this version of ablate reads "
        f"{', '.join(str(number) for number in [*sorted(_STEPS), SCHEMA])}."
    )
    provenance = data.get("provenance")
    git = provenance.get("git") if isinstance(provenance, dict) else None
    if isinstance(git, dict) and "commit" in git:
        return (
            f"{told} Read it with the version that wrote it: in a checkout of ablate, "
            f"`git checkout {git['commit']} && python -m ablate table`"
        )
    return f"{told} Run it again: the same words with `force=true`"


def _to_2(data: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 counted the tokens of held-out answers alone, and knew KL to the SFT policy only.

    What it does not know stays unknown: the tokens where a stage did not count them, KL to the
    last reference where that was another than the SFT policy.
    """
    counts = [
        stage["result"].get("generated") for stage in data["stages"] if KINDS[stage["name"]].draws
    ]
    known = all(count is not None for count in counts)
    generated = sum(count["tokens"] for count in counts) if known else None
    metrics, collection = dict(data["metrics"]), data["config"]["collection"]
    if collection["rounds"] == 1 or collection["reference"] != "last":
        metrics["kl_reference"] = metrics["kl"]
    return {**data, "schema": 2, "tokens_generated": generated, "metrics": metrics}


#: schema -> what makes it the next one
_STEPS: dict[Any, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _to_2}
