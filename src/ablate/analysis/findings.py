"""Claims about arms, judged by intervals: holds, does not hold, or cannot tell."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analysis.blocked import fit_blocks

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"
LEVEL = 0.95
Kind = Literal["greater", "equal", "not_more"]
#: (difference, standard error, degrees of freedom) of two arms, or None where one is not there
Contrast = Callable[[str, str], tuple[float, float, float] | None]


@dataclass(frozen=True)
class Claim:
    """`first` is greater than, equal to (within the margin) or not more than `second` (by it)."""

    first: str
    kind: Kind
    second: str

    @property
    def words(self) -> str:
        sign = {"greater": ">", "equal": "≈", "not_more": "≲"}[self.kind]
        return f"{self.first} {sign} {self.second}"


@dataclass(frozen=True)
class Finding:
    """A finding as a conjunction of claims."""

    number: int
    told: str
    claims: tuple[Claim, ...]


def judge(finding: Finding, contrast: Contrast, margin: float) -> pd.DataFrame:
    """Every claim with its interval and verdict.

    The intervals hold at once for all claims of the finding with 95 % (Bonferroni). A claim of
    more holds if its interval lies above 0 and fails if it lies below; a claim of equality holds
    if the interval lies within ±margin and fails if it lies outside; `not_more` the same on one
    side. A lack of significance is never a claim of equality.

    Returns:
        A row per claim: claim, difference, low, high, verdict.
    """
    rows = []
    for claim in finding.claims:
        found = contrast(claim.first, claim.second)
        row = {"claim": claim.words, "difference": math.nan, "low": math.nan, "high": math.nan}
        if found is None or not math.isfinite(found[1]):
            rows.append({**row, "verdict": f"{OPEN}: not in the study"})
            continue
        gap, se, df = found
        half = float(stats.t.ppf(1 - (1 - LEVEL) / (2 * len(finding.claims)), df)) * se
        low, high = gap - half, gap + half
        verdict = _verdict(claim.kind, low, high, margin)
        rows.append({**row, "difference": gap, "low": low, "high": high, "verdict": verdict})
    return pd.DataFrame(rows)


def _verdict(kind: Kind, low: float, high: float, margin: float) -> str:
    if kind == "greater":
        return HOLDS if low > 0 else FAILS if high < 0 else OPEN
    if kind == "equal":
        inside, outside = -margin < low and high < margin, low > margin or high < -margin
        return HOLDS if inside else FAILS if outside else OPEN
    return HOLDS if high < margin else FAILS if low > margin else OPEN


def verdict(judged: pd.DataFrame) -> str:
    """A finding holds if all its claims do, and does not if one does not."""
    words = judged["verdict"].tolist()
    if any(word == FAILS for word in words):
        return FAILS
    return HOLDS if words and all(word == HOLDS for word in words) else OPEN


def from_runs(runs: pd.DataFrame) -> Contrast:
    """Differences from run means blocked by seed, the variance pooled over all arms.

    Args:
        runs: a row per run with name, block and value.
    """
    fit = fit_blocks(runs["name"].tolist(), runs["block"].tolist(), runs["value"].to_numpy(float))

    def contrast(first: str, second: str) -> tuple[float, float, float] | None:
        if first not in fit.arms or second not in fit.arms or fit.df < 1:
            return None
        gap, se = fit.contrast(fit.pairs([(first, second)]))
        return float(gap[0]), float(se[0]), float(fit.df)

    return contrast


def from_intervals(means: pd.Series, halves: pd.Series) -> Contrast:
    """Differences of published means from their 95 % half-widths, taken as 1.96 standard errors.

    Arms are taken as independent; an arm without a half-width gives no interval.
    """

    def contrast(first: str, second: str) -> tuple[float, float, float] | None:
        if first not in means.index or second not in means.index:
            return None
        # a value without an interval, such as the SFT policy's, is taken as exact
        spread = [
            0.0 if np.isnan(halves[name]) else float(halves[name]) for name in (first, second)
        ]
        if not any(spread):
            return None
        return float(means[first] - means[second]), math.hypot(*spread) / 1.959964, math.inf

    return contrast


def paper_findings(offline: Sequence[str] = ("dpo", "simpo", "rpo_bwd")) -> list[Finding]:
    """The seven findings of arXiv 2502.00203 as claims about named arms.

    Arms are named as `objective K collection reward`; `sft` is the SFT policy; rounds are
    `objective collection round N`, prompts `prompts id` and `prompts ood`.
    """
    two = [f"{name} 2 offline gold" for name in offline]
    worse = ["kto 2 offline gold", "rpo_sqloo 2 offline gold"]
    pairs = [(a, b) for i, a in enumerate(two) for b in two[i + 1 :]]
    four = {
        (o, c, r): f"{o} 4 {c} {r}"
        for o in ("rpo_bwd", "rpo_sqloo")
        for c, r in (("offline", "gold"), ("online", "gold"), ("online", "learnt"))
    }
    both = ("rpo_bwd", "rpo_sqloo")
    return [
        Finding(
            1,
            "Offline with two responses, DPO, SimPO and RPO-bwd are alike, and better than KTO and "
            "RPO-sqloo.",
            tuple(Claim(a, "equal", b) for a, b in pairs)
            + tuple(Claim(a, "greater", b) for a in two for b in worse),
        ),
        Finding(
            2,
            "Four responses in place of two bring no gain offline.",
            tuple(
                Claim(four[o, "offline", "gold"], "not_more", f"{o} 2 offline gold") for o in both
            ),
        ),
        Finding(
            3,
            "Online, RPO-bwd beats RPO-sqloo (RLOO).",
            (Claim(four["rpo_bwd", "online", "gold"], "greater",
                   four["rpo_sqloo", "online", "gold"]),),
        ),
        Finding(
            4,
            "Online beats offline when the judge itself is the reward.",
            tuple(
                Claim(four[o, "online", "gold"], "greater", four[o, "offline", "gold"])
                for o in both
            ),
        ),
        Finding(
            5,
            "Every iteration helps.",
            tuple(
                Claim(f"{o} offline round {n + 1}", "greater", f"{o} offline round {n}")
                for o in ("dpo", "rpo_bwd")
                for n in (1, 2)
            ),
        ),
        Finding(
            6,
            "With a reward learnt from the preferences, online training hardly improves on SFT.",
            tuple(Claim(four[o, "online", "learnt"], "not_more", "sft") for o in both),
        ),
        Finding(
            7,
            "Prompts of the evaluation's kind train better than others.",
            (Claim("prompts id", "greater", "prompts ood"),),
        ),
    ]  # fmt: skip
