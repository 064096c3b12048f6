"""Arms at the same distance from the SFT policy: reward read off each arm's own reward-KL curve.

Between known points reward is taken to be linear in sqrt(KL): the gain of an optimised policy
grows with that root as long as it is small (arXiv 2210.10760, section 3: d (α − β d) and
d (α − β log d) with d = sqrt(KL)). A straight line in KL would lie below such a curve, the more so
the farther the arm went, and call it worse for that.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.errors import DataError

#: the metric that stands for judge reward at a common KL
AT_KL = "reward_at_kl"
#: how a value was read: at a run, between runs of one seed, along the curve that a run recorded,
#: or on the assumed law alone, from the SFT policy to a run
OWN, BETWEEN, RECORDED, CHORD = "own", "between", "recorded", "chord"
READ = "read_at_kl"


@dataclass(frozen=True)
class AtKl:
    """Runs at a common KL, in nats; `short` names curves that do not reach it and are left out."""

    frame: pd.DataFrame
    kl: float
    short: list[str]


def at_matched_kl(runs: pd.DataFrame, split: str, kl: float | None, curves: pd.DataFrame) -> AtKl:
    """One row per cell and seed, with `reward_at_kl/<split>` at a KL that is the same for all.

    The curve of a cell and seed goes from the SFT policy (KL 0, its own reward) through the runs
    of that seed (its trials, such as several β) in order of KL. From the SFT policy to the first
    of them it follows the curve that this run recorded, if any. It is not continued beyond the
    last run. The column `read_at_kl` says how each value was read.

    Args:
        runs: frame of runs with id, row, col and seed, and reward, reward_sft and kl of the split.
        kl: nats; None takes the largest that every curve reaches.
        curves: a row per point of the runs' recorded curves: id, kl, judge_reward.

    Raises:
        DataError: no curve reaches the KL, or a KL that is not positive.
    """
    known = []
    for _, part in runs.groupby(["row", "col", "seed"], sort=False):
        points = part.sort_values(f"kl/{split}", kind="stable")
        reach = float(points[f"kl/{split}"].iloc[-1])
        known.append((points, reach))
    target = min(reach for _, reach in known) if kl is None else kl
    if not target > 0:
        raise DataError(f"KL {target:g} is no distance at which arms could be compared")
    recorded = dict(iter(curves.groupby("id", sort=False)))
    rows, short = [], []
    for points, reach in known:
        first = points.iloc[[0]]
        if reach < target - 1e-12:
            short.append(f"{' '.join([*first['row'].iloc[0], *first['col'].iloc[0]])} "
                         f"seed {first['seed'].iloc[0]} ({reach:.2f})")  # fmt: skip
            continue
        value, how = _read(points, split, target, recorded)
        added = {f"{AT_KL}/{split}": value, READ: how}
        if f"reward/{split}/n" in first:
            added[f"{AT_KL}/{split}/n"] = float(first[f"reward/{split}/n"].iloc[0])
        rows.append(first.assign(**added))
    if not rows:
        raise DataError(
            f"no run goes as far as KL {target:g}; the farthest reaches "
            f"{max(reach for _, reach in known):.2f}"
        )
    return AtKl(pd.concat(rows).copy(), target, short)


def _read(
    points: pd.DataFrame, split: str, target: float, recorded: dict[str, pd.DataFrame]
) -> tuple[float, str]:
    """The reward of one cell and seed at the target, and how it was read."""
    distance = np.maximum(points[f"kl/{split}"].to_numpy(float), 0.0)
    reward = points[f"reward/{split}"].to_numpy(float)
    at = np.flatnonzero(np.abs(distance - target) <= 1e-12)
    if len(at):
        return float(reward[at[0]]), OWN
    start = float(points[f"reward_sft/{split}"].iloc[0])
    roots, values = np.sqrt([0.0, *distance]), np.array([start, *reward])
    value = float(np.interp(np.sqrt(target), roots, values))
    if target > distance[0]:
        return value, BETWEEN
    curve = recorded.get(str(points["id"].iloc[0]))
    if curve is None:
        return value, CHORD
    bend, nearest = _bend(curve, float(distance[0]), target)
    # before its first point a recorded curve knows no more than the law
    return value + bend, RECORDED if nearest <= target else CHORD


def _bend(curve: pd.DataFrame, end: float, target: float) -> tuple[float, float]:
    """How far a recorded curve lies above its own line in sqrt(KL) from 0 to `end`, at `target`.

    The curve is measured on fewer prompts of another split, so only its shape is taken; the run's
    own values hold its ends. Points at which the policy was closer to SFT than before are left
    out: what counts is the first time that it was as far.

    Returns:
        That, and the KL of the first point of the curve that is not the SFT policy (infinite
        without one).
    """
    kl = np.maximum(curve["kl"].to_numpy(float), 0.0)
    first = np.concatenate([[True], kl[1:] > np.maximum.accumulate(kl)[:-1]])
    roots, reward = np.sqrt(kl[first]), curve["judge_reward"].to_numpy(float)[first]
    low, here, high = np.interp(np.sqrt([0.0, target, end]), roots, reward)
    share = np.sqrt(target / end)
    moved = kl[kl > 0]
    return float(here - (1 - share) * low - share * high), float(min(moved, default=np.inf))
