"""What several stages' work shares: loading policies, reading pools, joining tables."""

from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.config.dataset import Lengths
from ablate.config.run import RunConfig
from ablate.models.adapted import ADAPTER, AdaptersOff, load_adapted
from ablate.models.fit import Fitter
from ablate.models.loading import context_length, load_model
from ablate.models.tokenizer import load_tokenizer
from ablate.sampling.responses import Count
from ablate.stages.context import Report
from ablate.store.files import read_json
from ablate.store.tables import read_table

MODEL = "model"
POOL = "pool.parquet"
LABELS = "labels.parquet"
SCORES = "scores.parquet"
REF_LOGPS = "ref_logps.parquet"
STEPS = "train.parquet"
CURVE = "curve.parquet"
ANSWERS = "answers.parquet"
RESULT = "result.json"


def load_policy(folder: Path, run: RunConfig) -> tuple[Any, Any]:
    """Model in evaluation mode and tokenizer of a folder written by a stage."""
    model = load_model(
        folder,
        dtype=run.base_model.dtype,
        trust_remote_code=run.base_model.trust_remote_code,
        device=run.runtime.device,
    )
    model.eval()
    return model, load_tokenizer(str(folder))


def load_pair(folder: Path, start: Path, run: RunConfig) -> tuple[Any, Any, Any]:
    """A trained policy, the policy it started from, and their tokenizer.

    With adapters beside its weights, both share one copy of the base weights.
    """
    reference, tokenizer = load_policy(start, run)
    if run.base_model.lora is not None and (folder / ADAPTER).is_dir():
        policy = load_adapted(reference, folder)
        return policy, AdaptersOff(policy), tokenizer
    return load_policy(folder, run)[0], reference, tokenizer


def open_fitter(params: dict[str, Any], model: Any, tokenizer: Any) -> Fitter:
    """Encodes within the model's context and the limits that a stage's parameters may hold."""
    own = Lengths.model_validate(params["lengths"]) if "lengths" in params else None
    return Fitter(tokenizer, own, context_length(model))


def model_of(inputs: dict[str, Path], role: str) -> Path:
    """The model folder of an input: SFT's only model, or a trained policy's chosen checkpoint.

    The input `<role>_select` has chosen it where there is one; else it is the last.
    """
    folder = inputs[role]
    if (folder / MODEL).is_dir():
        return folder / MODEL
    select = inputs.get(f"{role}_select")
    if select is not None:
        return folder / f"step-{read_json(select / RESULT)['step']}"
    return folder / f"step-{read_json(folder / RESULT)['last']}"


def read_pool(folder: Path) -> pd.DataFrame:
    """The pool: prompt_id, prompt, prompt_ids, index, response, response_ids, finished.

    Where the dataset has them also messages, gold_ids and rationale_ids.
    """
    return read_table(folder / POOL)


def grouped(pool: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Prompts of a pool with their responses, in the pool's order; cut out one at a time."""
    return ((str(name), rows) for name, rows in pool.groupby("prompt_id", sort=False))


def joined(pool: pd.DataFrame, table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The pool with columns of a table that has the same keys; every row must find its partner."""
    keys = ["prompt_id", "index"]
    merged = pool.merge(table[keys + columns], on=keys, how="left", validate="one_to_one")
    if merged[columns].isna().any(axis=None):
        raise ValueError(f"{columns} are missing for some responses of the pool")
    return merged


def labelled(pool: pd.DataFrame, labels: Path) -> pd.DataFrame:
    """The pool with `label` and `clean`, the score behind it (the same without a label model)."""
    table = read_table(labels / LABELS)
    if "clean" not in table:
        table = table.assign(clean=table["label"])
    return joined(pool, table, ["label", "clean"])


def within(report: Report, first: float, last: float) -> Report:
    """A report for one part of a stage, mapped to that share of the stage's bar."""

    def inner(done: int, total: int, metrics: dict[str, float]) -> None:
        share = first + (last - first) * done / max(total, 1)
        report(round(1000 * share), 1000, metrics)

    return inner


def counted(responses: Iterable[Sized], model: Any) -> dict[str, int]:
    """How many sampled responses and tokens (stop tokens included), for a stage's result.

    With `batch_size`, how many of them at a time, where memory ran out with more.
    """
    sizes = [len(ids) for ids in responses]
    return drawn_from(model, Count(len(sizes), sum(sizes)))


def drawn_from(model: Any, count: Count) -> dict[str, int]:
    """As `counted`, of what was counted before."""
    from ablate.sampling.sample import lowered_batch

    lowered = lowered_batch(model)
    return count.plain() | ({} if lowered is None else {"batch_size": lowered})


def as_lists(column: pd.Series) -> list[list[int]]:
    """A column of token ids as plain lists."""
    convert: Callable[[Any], list[int]] = lambda ids: np.asarray(ids).tolist()  # noqa: E731
    return [convert(ids) for ids in column]
