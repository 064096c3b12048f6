"""Cells of an ablation table: the seeds of one trial, with mean and interval over runs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ablate.results.rows import FACTORS

#: settings that differ between runs of one cell, or that are no part of the study
NOT_VARIED = (
    "config.seed.",
    "config.runtime.",
    "config.tracker.",
    "config.results_dir",
    "config.force",
    "config.keep",
)
#: settings that only spell out a factor's level
_LEVEL_OF = {
    "objective": "config.objective.",
    "num_responses": "config.num_responses.k",
    "reward": "config.reward.",
    "shaping": "config.shaping.",
    "base_model": "config.base_model.",
    "dataset": "config.dataset.",
    "collection": "config.collection.",
}


@dataclass(frozen=True)
class Cell:
    """One trial: its levels and settings, its runs, and each metric over them.

    `half` is the 95 % t-interval's half width over runs; NaN with a single run, because one seed
    says nothing about another.
    """

    labels: dict[str, Any]
    seeds: int
    diverged: int
    mean: dict[str, float]
    half: dict[str, float]


def cells(frame: pd.DataFrame, keys: list[str], metrics: list[str]) -> list[Cell]:
    """Cells of `frame` by the columns `keys`, in order of first appearance.

    Args:
        frame: runs as from `results.load`.
        metrics: columns to average, such as `reward/test`.
    """
    result = []
    groups = frame.groupby(keys, sort=False, dropna=False) if keys else [((), frame)]
    for labels, rows in groups:
        mean, half = {}, {}
        for metric in metrics:
            values = rows[metric].to_numpy(dtype=float)
            mean[metric] = float(values.mean())
            half[metric] = half_width(values)
        names = labels if isinstance(labels, tuple) else (labels,)
        result.append(
            Cell(
                labels=dict(zip(keys, names, strict=True)),
                seeds=len(rows),
                diverged=int((rows["status"] == "diverged").sum()),
                mean=mean,
                half=half,
            )
        )
    return result


def half_width(values: np.ndarray) -> float:
    """Half width of the 95 % t-interval over runs; NaN for fewer than two."""
    n = len(values)
    if n < 2:
        return float("nan")
    se = float(values.std(ddof=1)) / np.sqrt(n)
    return float(stats.t.ppf(0.975, n - 1)) * se


def varied_settings(frame: pd.DataFrame) -> list[str]:
    """The columns in which runs differ: factors first, then settings.

    A setting that is the same in all runs of a factor's level only spells out that level; one
    that differs within a level is a variation of its own.
    """
    factors = [name for name in FACTORS if name != "seed" and frame[name].nunique(dropna=False) > 1]
    settings = []
    for column in frame.columns:
        if not column.startswith("config.") or column.startswith(NOT_VARIED):
            continue
        if frame[column].map(repr).nunique() == 1:
            continue
        if not any(spelled_out(frame, name, column) for name in factors):
            settings.append(column)
    return factors + settings


def spelled_out(frame: pd.DataFrame, factor: str, setting: str) -> bool:
    """Whether a setting only says what a factor's level means: each level has one value of it."""
    group = factor.removesuffix("name") if factor.startswith("config.") else "."
    if not setting.startswith(_LEVEL_OF.get(factor, group)) or setting == factor:
        return False
    return int(frame[setting].map(repr).groupby(frame[factor]).nunique().max()) == 1
