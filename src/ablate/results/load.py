"""Loading: records and their tables as DataFrames; reads data only and executes nothing."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.errors import StoreError
from ablate.store import records
from ablate.store.layout import Layout
from ablate.store.records import Record
from ablate.store.tables import read_table

FACTORS = {
    "objective": ("objective", "name"),
    "num_responses": ("num_responses", "k"),
    "reward": ("reward", "name"),
    "base_model": ("base_model", "name"),
    "dataset": ("dataset", "name"),
    "collection": ("collection", "name"),
    "seed": ("seed", "value"),
}


def load(root: str | Path = "results", ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per run, its newest revision.

    Columns: id, name, status (done or diverged), revision, the factors (objective, num_responses,
    reward, base_model, dataset, collection, seed), every setting as `config.<path>`, every metric
    as `<metric>/<split>` with `<metric>/<split>/se` (over prompts), tokens_trained,
    tokens_generated, device_seconds (seconds), judge, commit, path.

    Args:
        root: the results folder.
        ids: identities to load; None loads all.

    Raises:
        StoreError: no such folder, or a record that cannot be read.
    """
    layout = Layout(Path(root))
    if not layout.root.is_dir():
        raise StoreError(f"there is no results folder {layout.root.resolve()}")
    if ids is None:
        found = list(records.records(layout))
    else:
        found = [record for i in ids if (record := records.latest(layout, i)) is not None]
    return pd.DataFrame([row(record) for record in found])


def row(record: Record) -> dict[str, Any]:
    """The row of one record in `load`."""
    data = record.data
    config = data["config"]
    git = data["provenance"]["git"]
    result: dict[str, Any] = {
        "id": record.identity,
        "name": data["name"],
        "status": data["status"],
        "revision": record.revision,
    }
    result |= {factor: config[group][key] for factor, (group, key) in FACTORS.items()}
    result |= {f"config.{path}": value for path, value in records.flat(config)}
    for metric, splits in data["metrics"].items():
        for split, estimate in splits.items():
            result[f"{metric}/{split}"] = estimate["mean"]
            result[f"{metric}/{split}/se"] = estimate["se"]
    for key in ("tokens_trained", "tokens_generated", "device_seconds"):
        result[key] = data[key]
    result["commit"] = git["commit"] if git else None
    result["path"] = str(record.path)
    return result


def load_eval(root: str | Path = "results", ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per run, prompt and sample: `id` and the columns of eval.parquet.

    Those are split, prompt_id, sample, prompt, response, num_tokens, num_chars, truncated,
    judge_score, baseline_score and baseline_response (the SFT policy's), logp_policy, logp_ref and
    kl (nats, summed over the response), train_reward (on training's scale; absent for labels).
    """
    return _tables(root, ids, "eval.parquet")


def load_train(root: str | Path = "results", ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per run and optimizer step: `id` and the columns of train.parquet.

    Where a run has several rounds, `round` counts them from 1 and `step` begins anew in each.
    """
    return _tables(root, ids, "train.parquet")


def load_curve(root: str | Path = "results", ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per run and point of its over-optimisation curve; runs without one are left out.

    Columns: id, (round,) step, judge_reward, training_reward (on training's scale), kl (to SFT, in
    nats per response), length (tokens), truncated (share), all means over the same valid prompts.
    """
    return _tables(root, ids, "curve.parquet")


def _tables(root: str | Path, ids: Iterable[str] | None, name: str) -> pd.DataFrame:
    runs = load(root, ids)
    frames = [
        read_table(Path(path) / name).assign(id=identity)
        for identity, path in zip(runs.get("id", []), runs.get("path", []), strict=True)
        if (Path(path) / name).exists()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
