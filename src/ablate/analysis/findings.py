"""Claims about arms, judged by intervals: holds, does not hold, or cannot tell."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analysis.blocked import fit_blocks

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"
#: every claim that could be judged holds; of the others there is no measurement
PARTLY = "holds as far as it was measured"
#: what numbers without intervals say
AGREE, DISAGREE = "its numbers agree", "its numbers disagree"
LEVEL = 0.95
Kind = Literal["greater", "equal", "not_more"]
#: arms' weights -> (weighted sum, standard error, degrees of freedom): the error is NaN where there
#: is none, and None stands for arms that are not there
Contrast = Callable[[Mapping[str, float]], tuple[float, float, float] | None]
#: what is compared -> its contrasts
Contrasts = Mapping[str, Contrast]


@dataclass(frozen=True)
class Claim:
    """`first` is greater than, equal to (within the margin) or not more than `second` (by it).

    Either side may be a gap, `a minus b`. measure: what is compared; the margin is one of reward.
    """

    first: str
    kind: Kind
    second: str
    measure: str = "reward"

    @property
    def words(self) -> str:
        sign = {"greater": ">", "equal": "≈", "not_more": "≲"}[self.kind]
        told = f"{self.first} {sign} {self.second}"
        return told if self.measure == "reward" else f"{self.measure}: {told}"

    @property
    def weights(self) -> dict[str, float]:
        """Each arm's weight in first minus second."""
        found: dict[str, float] = {}
        for side, sign in ((self.first, 1.0), (self.second, -1.0)):
            for arm, own in zip(side.split(" minus "), (1.0, -1.0), strict=False):
                found[arm] = found.get(arm, 0.0) + sign * own
        return found


@dataclass(frozen=True)
class Finding:
    """A finding as a conjunction of claims."""

    number: int
    told: str
    claims: tuple[Claim, ...]


def judge(
    finding: Finding, contrasts: Contrasts, margin: float, where: str = "the study"
) -> pd.DataFrame:
    """Every claim with its interval and verdict.

    The intervals hold at once for all claims of the finding with 95 % (Bonferroni). A claim of
    more holds if its interval lies above 0 and fails if it lies below; a claim of equality holds
    if the interval lies within ±margin and fails if it lies outside; `not_more` the same on one
    side. A lack of significance is never a claim of equality.

    Args:
        where: what lacks an arm that is not there, in words.

    Returns:
        A row per claim: claim, difference, low, high, verdict.
    """
    rows = []
    for claim in finding.claims:
        found = _found(claim, contrasts)
        row = {"claim": claim.words, "difference": math.nan, "low": math.nan, "high": math.nan}
        if found is None:
            rows.append({**row, "verdict": f"{OPEN}: not in {where}"})
            continue
        gap, se, df = found
        if not math.isfinite(se):
            rows.append({**row, "difference": gap, "verdict": f"{OPEN}: no interval"})
            continue
        half = float(stats.t.ppf(1 - (1 - LEVEL) / (2 * len(finding.claims)), df)) * se
        low, high = gap - half, gap + half
        told = _verdict(claim.kind, low, high, margin)
        rows.append({**row, "difference": gap, "low": low, "high": high, "verdict": told})
    return pd.DataFrame(rows)


def _found(claim: Claim, contrasts: Contrasts) -> tuple[float, float, float] | None:
    return contrasts[claim.measure](claim.weights) if claim.measure in contrasts else None


def points(finding: Finding, contrasts: Contrasts, margin: float) -> str:
    """What differences without intervals say of a finding, for arms that ran once: no test."""
    agree = []
    for claim in finding.claims:
        found = _found(claim, contrasts)
        if found is not None and math.isfinite(found[0]):
            gap = found[0]
            inside = {"greater": gap > 0, "equal": abs(gap) < margin, "not_more": gap < margin}
            agree.append(inside[claim.kind])
    if not agree:
        return "not in its tables"
    if not all(agree):
        return f"{DISAGREE} ({len(agree) - sum(agree)} of {len(agree)} claims)"
    return AGREE if len(agree) == len(finding.claims) else f"{AGREE}, as far as they go"


def _verdict(kind: Kind, low: float, high: float, margin: float) -> str:
    if kind == "greater":
        return HOLDS if low > 0 else FAILS if high < 0 else OPEN
    if kind == "equal":
        inside, outside = -margin < low and high < margin, low > margin or high < -margin
        return HOLDS if inside else FAILS if outside else OPEN
    return HOLDS if high < margin else FAILS if low > margin else OPEN


def verdict(judged: pd.DataFrame) -> str:
    """A finding holds if all its claims do, and does not if one does not.

    `PARTLY` where those that hold are all that could be judged: the others were not measured.
    """
    words = judged["verdict"].tolist()
    if any(word == FAILS for word in words):
        return FAILS
    if words and all(word == HOLDS for word in words):
        return HOLDS
    return PARTLY if HOLDS in words and OPEN not in words else OPEN


def from_runs(runs: pd.DataFrame) -> Contrast:
    """Differences from run means blocked by seed, the variance pooled over all arms.

    Args:
        runs: a row per run with name, block and value.
    """
    if runs.empty:
        return lambda weights: None
    fit = fit_blocks(runs["name"].tolist(), runs["block"].tolist(), runs["value"].to_numpy(float))

    def contrast(weights: Mapping[str, float]) -> tuple[float, float, float] | None:
        if not set(weights) <= set(fit.arms):
            return None
        row = np.array([[weights.get(str(arm), 0.0) for arm in fit.arms]])
        gap, se = fit.contrast(row)
        return float(gap[0]), float(se[0]) if fit.df > 0 else math.nan, float(fit.df)

    return contrast


def from_changes(changes: pd.DataFrame) -> Contrast:
    """How an arm's runs changed between `ARM at first` and `ARM at last`, from those runs alone.

    Args:
        changes: a row per run with name and value, what it was at last minus what it was at first.
    """
    held = {str(name): part.to_numpy(float) for name, part in changes.groupby("name")["value"]}

    def contrast(weights: Mapping[str, float]) -> tuple[float, float, float] | None:
        ends = {sign: arm for arm, sign in weights.items()}
        name, _, end = ends[1.0].rpartition(" at ")
        if name not in held or set(weights) != {f"{name} at first", f"{name} at last"}:
            return None
        values = held[name] if end == "last" else -held[name]
        several = len(values) > 1 and values.std() > 0
        se = float(values.std(ddof=1)) / math.sqrt(len(values)) if several else math.nan
        return float(values.mean()), se, float(len(values) - 1)

    return contrast


def from_counts(counts: Mapping[str, tuple[int, int]]) -> Contrast:
    """Differences of shares, one success and one failure added to each (Agresti & Caffo, 2000).

    Args:
        counts: name -> (successes, runs).
    """

    def contrast(weights: Mapping[str, float]) -> tuple[float, float, float] | None:
        if not set(weights) <= set(counts):
            return None
        gap = variance = 0.0
        for name, weight in weights.items():
            successes, runs = counts[name]
            share = (successes + 1) / (runs + 2)
            gap += weight * share
            variance += weight**2 * share * (1 - share) / (runs + 2)
        return gap, math.sqrt(variance), math.inf

    return contrast


def from_intervals(
    means: pd.Series, halves: pd.Series, exact: Collection[str] = ("sft",)
) -> Contrast:
    """Differences of published means from their 95 % half-widths, taken as 1.96 standard errors.

    Arms are taken as independent.

    Args:
        exact: arms that no seed redraws, such as the SFT policy: they have no half-width and need
            none. Any other arm without a half-width gives no interval.
    """

    def contrast(weights: Mapping[str, float]) -> tuple[float, float, float] | None:
        if not set(weights) <= set(means.index):
            return None
        gap = sum(weight * float(means[name]) for name, weight in weights.items())
        spread = [
            0.0 if name in exact else weight * float(halves[name])
            for name, weight in weights.items()
        ]
        # NaN where a half-width is
        return gap, math.hypot(*spread) / 1.959964, math.inf

    return contrast
