"""Arms at the same distance from the reference: reward read off each arm's own reward-KL curve."""

import numpy as np
import pandas as pd

from ablate.errors import DataError

#: the metric that stands for judge reward at a common KL
AT_KL = "reward_at_kl"


def at_matched_kl(
    runs: pd.DataFrame, split: str, kl: float | None
) -> tuple[pd.DataFrame, float, list[str]]:
    """One row per cell and seed, with `reward_at_kl/<split>` at a KL that is the same for all.

    The curve of a cell and seed goes from the SFT policy (KL 0, its own reward) through the runs
    of that seed (its trials, such as several β) in order of KL, in straight lines. It is not
    continued beyond its last run.

    Args:
        runs: frame of runs with row, col and seed, and reward, reward_sft and kl of the split.
        kl: nats; None takes the largest that every curve reaches.

    Returns:
        The rows, the KL, and the names of curves that do not reach it (which are left out).

    Raises:
        DataError: no curve reaches the KL, or a KL that is not positive.
    """
    curves = []
    for _, part in runs.groupby(["row", "col", "seed"], sort=False):
        points = part.sort_values(f"kl/{split}", kind="stable")
        reach = float(points[f"kl/{split}"].iloc[-1])
        curves.append((points, reach))
    target = min(reach for _, reach in curves) if kl is None else kl
    if not target > 0:
        raise DataError(f"KL {target:g} is no distance at which arms could be compared")
    rows, short = [], []
    for points, reach in curves:
        first = points.iloc[[0]]
        if reach < target - 1e-12:
            short.append(f"{' '.join([*first['row'].iloc[0], *first['col'].iloc[0]])} "
                         f"seed {first['seed'].iloc[0]} ({reach:.2f})")  # fmt: skip
            continue
        distance = np.concatenate([[0.0], np.maximum(points[f"kl/{split}"].to_numpy(float), 0.0)])
        start = float(points[f"reward_sft/{split}"].iloc[0])
        reward = np.concatenate([[start], points[f"reward/{split}"].to_numpy(float)])
        value = float(np.interp(target, distance, reward))
        added = {f"{AT_KL}/{split}": value}
        if f"reward/{split}/n" in first:
            added[f"{AT_KL}/{split}/n"] = float(first[f"reward/{split}/n"].iloc[0])
        rows.append(first.assign(**added))
    if not rows:
        raise DataError(
            f"no run goes as far as KL {target:g}; the farthest reaches "
            f"{max(reach for _, reach in curves):.2f}"
        )
    return pd.concat(rows).copy(), target, short
