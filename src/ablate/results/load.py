"""Loading: records and their tables as DataFrames; reads data only and executes nothing."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.errors import StoreError
from ablate.store import files, records
from ablate.store.layout import Layout
from ablate.store.records import SCHEMA, Record
from ablate.store.tables import read_table

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
EVAL = "eval.parquet"
TRAIN = "train.parquet"
CURVE = "curve.parquet"


@dataclass(frozen=True)
class Damaged:
    """A run whose record cannot be used, and why."""

    identity: str
    reason: str

    def __str__(self) -> str:
        return f"run {self.identity[:12]} is damaged and left out: {self.reason}"


@dataclass(frozen=True)
class Runs:
    """The runs of a store, a row each, and those that could not be read."""

    frame: pd.DataFrame
    damaged: list[Damaged]


def load(root: str | Path = "results", ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per run, its newest revision.

    Columns: id, name, status (done or diverged), revision, the factors (objective, num_responses,
    reward, shaping, base_model, dataset, collection, seed), every setting as `config.<path>`,
    every metric as `<metric>/<split>` with `<metric>/<split>/se` and `<metric>/<split>/n` (over
    prompts),
    `reward.<key>` (what is known of the training reward), `stage.<role>` (identities of the stages
    that it came from), tokens_trained, tokens_generated, device_seconds (seconds), finished (unix
    time), commit, path.

    A damaged record is left out with a warning that names it.

    Args:
        root: the results folder.
        ids: identities to load; None loads all.

    Raises:
        StoreError: no such folder.
    """
    runs = read_runs(root, ids)
    for damaged in runs.damaged:
        warnings.warn(str(damaged), stacklevel=2)
    return runs.frame


def read_runs(root: str | Path, ids: Iterable[str] | None = None) -> Runs:
    """As `load`, with the damaged records listed in place of warnings."""
    layout = Layout(Path(root))
    if not layout.root.is_dir():
        raise StoreError(f"there is no results folder {layout.root.resolve()}")
    if ids is None:
        names = sorted(path.name for path in layout.runs.iterdir()) if layout.runs.is_dir() else []
    else:
        names = list(dict.fromkeys(ids))
    rows, damaged = [], []
    for name in names:
        try:
            record = records.latest(layout, name)
            if record is not None:
                rows.append(_checked_row(record))
        except StoreError as error:
            damaged.append(Damaged(name, str(error)))
    # asked for by id: in that order; else the oldest first
    if ids is None:
        rows.sort(key=lambda item: item["finished"])
    return Runs(pd.DataFrame(rows), damaged)


def _checked_row(record: Record) -> dict[str, Any]:
    """The row of a record that equals its checksum, is of this schema and holds what it must."""
    path = record.path / "record.json"
    schema = record.data.get("schema") if isinstance(record.data, dict) else None
    if schema != SCHEMA:
        raise StoreError(
            f"{path} is of schema {schema}, this version of ablate reads {SCHEMA}: "
            "use the version that wrote it (its commit stands in the record)"
        )
    verify(record.path, "record.json")
    try:
        return row(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} lacks what a record holds: {error}") from error


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
    for key in ("tokens_trained", "tokens_generated", "device_seconds", "finished"):
        result[key] = data[key]
    result["commit"] = git["commit"] if git else None
    result["path"] = str(record.path)
    return result


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The columns of a frozen configuration: its factors, and every setting as `config.<path>`."""
    factors = {
        factor: config[group][key] if group in config else BEFORE[factor]
        for factor, (group, key) in FACTORS.items()
    }
    return factors | {f"config.{path}": value for path, value in records.flat(config)}


def load_eval(root: str | Path = "results", ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per run, prompt and sample: `id` and the columns of eval.parquet.

    Those are split, prompt_id, sample, prompt, response, num_tokens, num_chars, truncated,
    judge_score, baseline_score and baseline_response (the SFT policy's), logp_policy, logp_ref and
    kl (nats, summed over the response), train_reward (on training's scale; absent for labels).

    Raises:
        StoreError: a table that is damaged, by name.
    """
    return _tables(root, ids, EVAL)


def load_train(root: str | Path = "results", ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per run and optimizer step: `id` and the columns of train.parquet.

    Where a run has several rounds, `round` counts them from 1 and `step` begins anew in each.
    """
    return _tables(root, ids, TRAIN)


def read_answers(path: str | Path, columns: list[str] | None = None) -> pd.DataFrame:
    """The eval.parquet of one run's folder (a row's `path`), compared with its checksum."""
    verify(Path(path), EVAL)
    return read_table(Path(path) / EVAL, columns)


def load_curve(root: str | Path = "results", ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per run and point of its over-optimisation curve; runs without one are left out.

    Columns: id, (round,) step, judge_reward, training_reward (on training's scale), kl (to SFT, in
    nats per response), length (tokens), truncated (share), all means over the same valid prompts;
    answers and tokens, counts of what was sampled for the point.
    """
    return _tables(root, ids, CURVE)


def _tables(root: str | Path, ids: Iterable[str] | None, name: str) -> pd.DataFrame:
    runs = load(root, ids)
    frames = []
    for identity, path in zip(runs.get("id", []), runs.get("path", []), strict=True):
        # not every run leaves every table; what its manifest names must be there
        if name in files.read_json(Path(path) / files.MANIFEST):
            verify(Path(path), name)
            frames.append(read_table(Path(path) / name).assign(id=identity))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
