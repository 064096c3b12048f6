"""Metrics over stored answers: repetition, win rates, length control, gold against training reward.

Lengths are characters. A tie counts half a win. Every estimate is clustered by prompt.
"""

import numpy as np
from numpy.typing import NDArray

from ablate.errors import DataError
from ablate.metrics.length_control import length_controlled
from ablate.metrics.registry import Table, metric
from ablate.metrics.summary import Estimate, mean_over_prompts, win_rate

#: words in a row whose repetition is counted
GRAM = 2


@metric("reward_gain", title="gain over SFT", better=1)
def reward_gain(table: Table) -> Estimate:
    """Judge reward minus that of the SFT policy's answer to the same prompt."""
    return mean_over_prompts(table["judge_score"] - table["baseline_score"], table["prompt_id"])


@metric("length_chars", title="length", unit="characters", digits=1)
def length_chars(table: Table) -> Estimate:
    """Characters of an answer."""
    return mean_over_prompts(table["num_chars"].astype(float), table["prompt_id"])


@metric("repetition", title="repeated word pairs", unit="%", better=-1, scale=100.0, digits=1)
def repetition(table: Table) -> Estimate:
    """Share of an answer's word pairs that occurred in it before (seq-rep-n, 1908.04319, n = 2)."""
    shares = np.array([repeated_share(text) for text in table["response"]])
    return mean_over_prompts(shares, table["prompt_id"])


def repeated_share(text: str, n: int = GRAM) -> float:
    """1 - distinct / all word n-grams of a text; 0 where there are none."""
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@metric(
    "win_rate_lc", title="length-controlled win rate against SFT", unit="%", better=1, scale=100.0,
    digits=1,
)  # fmt: skip
def win_rate_lc(table: Table) -> Estimate:
    """Win rate against the SFT policy at equal length."""
    lengths = np.array([len(text) for text in table["baseline_response"]], dtype=float)
    return length_controlled(
        table["judge_score"], table["baseline_score"], table["num_chars"], lengths,
        table["prompt_id"],
    )  # fmt: skip


@metric(
    "win_rate_baseline", title="win rate against the baseline", unit="%", better=1, scale=100.0,
    digits=1, against=True,
)  # fmt: skip
def win_rate_baseline(table: Table) -> Estimate:
    """Share of answers that beat the baseline run's answer to the same prompt."""
    return win_rate(table["judge_score"], table["other_judge_score"], table["prompt_id"])


@metric(
    "win_rate_baseline_lc", title="length-controlled win rate against the baseline", unit="%",
    better=1, scale=100.0, digits=1, against=True,
)  # fmt: skip
def win_rate_baseline_lc(table: Table) -> Estimate:
    """Win rate against the baseline run at equal length."""
    return length_controlled(
        table["judge_score"], table["other_judge_score"], table["num_chars"],
        table["other_num_chars"], table["prompt_id"],
    )  # fmt: skip


@metric("reward_correlation", title="training reward with judge", better=1)
def reward_correlation(table: Table) -> Estimate:
    """Correlation of training reward and judge over prompts (Pearson), on the policy's answers.

    Low while training reward is high is what over-optimisation looks like.
    """
    learnt, gold = _by_prompt(table, "train_reward"), _by_prompt(table, "judge_score")
    if len(gold) < 4 or learnt.std() == 0 or gold.std() == 0:
        raise DataError(
            "reward_correlation needs four prompts or more, and rewards that differ between them"
        )
    r = float(np.corrcoef(learnt, gold)[0, 1])
    # Fisher's z; the standard error is carried back to the scale of r
    half = 1.959964 / np.sqrt(len(gold) - 3)
    low, high = np.tanh(np.arctanh(np.clip(r, -0.999999, 0.999999)) + np.array([-half, half]))
    return Estimate(r, (1 - r**2) / np.sqrt(len(gold) - 3), float(low), float(high), len(gold))


@metric("reward_gap", title="training reward's lead over the judge", unit="sd", against=True)
def reward_gap(table: Table) -> Estimate:
    """Gain in training reward minus gain in judge reward over the baseline run.

    Each gain in standard deviations of that reward over the baseline's answers; positive where
    the training reward rose by more than the judge agrees with.
    """
    return _lead(table, "other_train_reward", "other_judge_score")


@metric("hacking_gap", title="training reward's lead over the judge since SFT", unit="sd")
def hacking_gap(table: Table) -> Estimate:
    """Gain in training reward minus gain in judge reward over the SFT policy.

    As `reward_gap`, with the SFT policy's answers to the same prompts in the baseline's place.
    """
    return _lead(table, "baseline_train_reward", "baseline_score")


def _lead(table: Table, train_reward: str, judge_score: str) -> Estimate:
    """Gain in training reward minus gain in judge reward over what two columns hold."""
    gains = []
    for name, column in (("train_reward", train_reward), ("judge_score", judge_score)):
        other = table[column].astype(float)
        spread = float(other.std())
        if spread == 0:
            raise DataError(f"reward gap: the baseline's {name} is the same for every answer")
        gains.append((table[name] - other) / spread)
    return mean_over_prompts(gains[0] - gains[1], table["prompt_id"])


@metric(
    "worst_group_win_rate", title="win rate against SFT for the worst group", unit="%", better=1,
    scale=100.0, digits=1,
)  # fmt: skip
def worst_group_win_rate(table: Table) -> Estimate:
    """The smallest of the annotator groups' win rates, by each group's own utility (2402.08925)."""
    found = [
        win_rate(mine, theirs, table["prompt_id"]) for mine, theirs in _utilities(table).values()
    ]
    return min(found, key=lambda estimate: estimate.mean)


@metric("worst_group_gain", title="gain over SFT for the worst group", better=1)
def worst_group_gain(table: Table) -> Estimate:
    """The smallest of the annotator groups' mean gains in their own utility."""
    found = [
        mean_over_prompts(mine - theirs, table["prompt_id"])
        for mine, theirs in _utilities(table).values()
    ]
    return min(found, key=lambda estimate: estimate.mean)


def _utilities(table: Table) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """group -> its utility of the answers, and of the SFT policy's.

    Raises:
        KeyError: the run's labels had no annotators.
    """
    prefix = "utility_"
    groups = [name.removeprefix(prefix) for name in table if name.startswith(prefix)]
    if not groups:
        raise KeyError(f"{prefix}<group of annotators>")
    return {
        group: (
            table[f"{prefix}{group}"].astype(float),
            table[f"baseline_{prefix}{group}"].astype(float),
        )
        for group in groups
    }


def _by_prompt(table: Table, name: str) -> NDArray[np.float64]:
    _, index = np.unique(table["prompt_id"], return_inverse=True)
    sums = np.bincount(index, weights=table[name].astype(np.float64))
    return np.asarray(sums / np.bincount(index))
