"""Loading: records and their tables as DataFrames; reads data only and executes nothing."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.errors import StoreError
from ablate.results.compact import opened
from ablate.results.rows import checked_row, verify
from ablate.results.tables import CURVE, EVAL, PAIRS, TRAIN, read_tables
from ablate.store import records
from ablate.store.layout import Layout
from ablate.store.tables import read_table


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
    prompts), `reward.<key>` (what is known of the training reward), `stage.<role>` (identities of
    the stages that it came from), tokens_trained, tokens_generated (sampled by all of
    these stages, those shared with other runs included), device_seconds (seconds),
    finished (unix time), commit, changed_files (since that commit), machine.* and provenance.*
    (device, processor, versions), path. docs/results.md tells each with its unit.

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
    """As `load`, with the damaged records listed in place of warnings.

    What a compacted copy holds as the store does (`ablate compact`) comes from there.
    """
    layout = Layout(Path(root))
    if not layout.root.is_dir():
        raise StoreError(f"there is no results folder {layout.root.resolve()}")
    held = opened(layout)
    if ids is None:
        names = sorted(path.name for path in layout.runs.iterdir()) if layout.runs.is_dir() else []
        if held is not None and held.standalone:
            names += [name for name in held.touched if name not in set(names)]
    else:
        names = list(dict.fromkeys(ids))
    rows: list[dict[str, Any]] = []
    known, damaged = [], []
    for name in names:
        if held is not None and held.holds(layout, name):
            known.append(name)
            continue
        try:
            record = records.latest(layout, name)
            if record is not None:
                rows.append(checked_row(record))
        except StoreError as error:
            damaged.append(Damaged(name, str(error)))
    frame = pd.DataFrame(rows)
    if known:
        assert held is not None
        frame = pd.concat([held.frame.loc[known], frame], ignore_index=True)
    # asked for by id: in that order; else the oldest first
    if len(frame) and ids is None:
        frame = frame.sort_values("finished", kind="stable", ignore_index=True)
    elif known and rows:
        place = {name: number for number, name in enumerate(names)}
        frame = frame.sort_values("id", key=lambda ids: ids.map(place), ignore_index=True)
    # in whole blocks: what follows adds columns
    return Runs(frame.copy(), damaged)


def load_eval(
    root: str | Path = "results",
    ids: Iterable[str] | None = None,
    columns: list[str] | None = None,
    split: str | None = None,
) -> pd.DataFrame:
    """One row per run, prompt and sample: the columns of eval.parquet and `id`.

    Those are split, prompt_id, sample, prompt, response, num_tokens, num_chars, truncated,
    judge_score, baseline_score and baseline_response (the SFT policy's), logp_policy, logp_ref
    (under the SFT policy), kl and kl_reference (nats, summed over the response), train_reward and
    baseline_train_reward (on training's scale; absent for labels), and with annotators
    utility_<group> and baseline_utility_<group>.

    Args:
        columns: only these; reading the texts of many runs takes room.
        split: only this one.

    Raises:
        StoreError: a table that is damaged, by name.
    """
    return read_tables(_asked(root, ids), EVAL, columns, split)


def load_pairs(root: str | Path = "results", ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per run and labelled pair: the columns of pairs.parquet and `id`.

    Those are split (train or test), prompt_id, prompt, and for chosen and rejected: response,
    label, num_tokens, logp_policy and logp_ref (under the last reference; nats, summed).
    """
    return read_tables(_asked(root, ids), PAIRS)


def load_train(root: str | Path = "results", ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per run and optimizer step: the columns of train.parquet and `id`.

    Where a run has several rounds, `round` counts them from 1 and `step` begins anew in each.
    """
    return read_tables(_asked(root, ids), TRAIN)


def load_curve(root: str | Path = "results", ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per run and point of its over-optimisation curve; runs without one are left out.

    Columns: (round,) step, judge_reward, training_reward (on training's scale), kl (to SFT, in
    nats per response), length (tokens), truncated (share), all means over the same valid prompts;
    answers and tokens, counts of what was sampled for the point; and id.
    """
    return read_tables(_asked(root, ids), CURVE)


def read_answers(path: str | Path, columns: list[str] | None = None) -> pd.DataFrame:
    """The eval.parquet of one run's folder (a row's `path`), compared with its checksum."""
    folder = Path(path)
    if not folder.is_dir():
        frame = pd.DataFrame({"id": [folder.parent.name], "path": [str(folder)]})
        return read_tables(frame, EVAL, columns).drop(columns="id")
    verify(folder, EVAL)
    return read_table(folder / EVAL, columns)


def _asked(root: str | Path, ids: Iterable[str] | None) -> pd.DataFrame:
    frame = load(root, ids)
    return frame if len(frame) else pd.DataFrame({"id": [], "path": []})
