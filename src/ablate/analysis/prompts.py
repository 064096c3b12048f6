"""Comparisons over prompts: honest about these checkpoints and about nothing else."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ablate.metrics import Estimate, mean_over_prompts

#: what such an interval must be called wherever it is shown
THESE_CHECKPOINTS = "these checkpoints only"
KEYS = ["split", "prompt_id", "sample"]


@dataclass(frozen=True)
class Paired:
    """Two policies on the same prompts.

    `difference` is first minus second, `wins` the share of answers in which the first is better
    (a tie counts half); both with intervals over prompts, which know nothing of other seeds.
    """

    difference: Estimate
    wins: Estimate
    ties: float


def paired_by_prompt(first: pd.DataFrame, second: pd.DataFrame, column: str) -> pd.DataFrame:
    """Answers of two runs to the same prompts side by side.

    Args:
        first, second: answers with split, prompt_id, sample, response and `column`.

    Returns:
        A row per prompt and sample that both answered: the keys, prompt, first, second (the
        column's values), first_response, second_response, difference.
    """
    texts = [name for name in ("prompt", "response") if name in first]
    both = first[[*KEYS, *texts, column]].merge(
        second[[*KEYS, "response", column]], on=KEYS, suffixes=("", "_other"), validate="one_to_one"
    )
    both = both.rename(
        columns={
            column: "first",
            f"{column}_other": "second",
            "response": "first_response",
            "response_other": "second_response",
        }
    )
    return both.assign(difference=both["first"].astype(float) - both["second"].astype(float))


def compare_prompts(both: pd.DataFrame) -> Paired:
    """Difference and win rate over prompts of one or several pairs of runs.

    Args:
        both: as from `paired_by_prompt`; pairs of several seeds may be stacked: all answers to
            one prompt are averaged first.
    """
    prompts = both["prompt_id"].to_numpy()
    gap = both["difference"].to_numpy(dtype=float)
    wins = (gap > 0) + 0.5 * (gap == 0)
    return Paired(
        mean_over_prompts(gap, prompts),
        mean_over_prompts(wins.astype(float), prompts),
        float((gap == 0).mean()),
    )


def over_seeds(per_seed: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean, half width and p-value of differences of paired runs, one per seed.

    The paired t test, which is the blocked ANOVA of two arms. NaN with one seed.
    """
    n = len(per_seed)
    mean = float(per_seed.mean())
    sd = float(per_seed.std(ddof=1)) if n > 1 else 0.0
    if n < 2 or sd <= 1e-10 * float(np.abs(per_seed).max()):
        return mean, float("nan"), float("nan")
    se = sd / np.sqrt(n)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * se
    return mean, half, float(2 * stats.t.sf(abs(mean) / se, n - 1))
