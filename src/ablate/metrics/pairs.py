"""Metrics over labelled pairs: three accuracies that are often confused, and displacement.

They read a table of pairs (pairs.parquet in the run's folder): a row per labelled pair of the
splits train (labels as training saw them) and test (true labels) with split, prompt_id,
logp_policy_chosen, logp_policy_rejected, logp_ref_chosen, logp_ref_rejected (nats, summed over the
response) and num_tokens_chosen, num_tokens_rejected. A tie counts half.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate.metrics.registry import Table, metric
from ablate.metrics.summary import Estimate, mean_over_prompts

PAIRS = "pairs.parquet"
#: the splits of which a run keeps pairs
PAIR_SPLITS = ("train", "test")


def _share(first: NDArray[Any], second: NDArray[Any], table: Table) -> Estimate:
    wins = (first > second) + 0.5 * (first == second)
    return mean_over_prompts(wins.astype(float), table["prompt_id"])


@metric(
    "ranking_accuracy", title="ranking accuracy", unit="%", better=1, scale=100.0, digits=1,
    table=PAIRS,
)  # fmt: skip
def ranking_accuracy(table: Table) -> Estimate:
    """Share of pairs whose chosen response is the likelier one, log π(w) > log π(l) (2405.19534).

    No reference enters, which is what sets it apart from `implicit_reward_accuracy`.
    """
    return _share(table["logp_policy_chosen"], table["logp_policy_rejected"], table)


@metric(
    "ranking_accuracy_ln", title="ranking accuracy per token", unit="%", better=1, scale=100.0,
    digits=1, table=PAIRS,
)  # fmt: skip
def ranking_accuracy_ln(table: Table) -> Estimate:
    """Ranking accuracy of log-probs divided by the number of tokens."""
    return _share(
        table["logp_policy_chosen"] / table["num_tokens_chosen"],
        table["logp_policy_rejected"] / table["num_tokens_rejected"],
        table,
    )


@metric(
    "implicit_reward_accuracy", title="implicit-reward accuracy", unit="%", better=1, scale=100.0,
    digits=1, table=PAIRS,
)  # fmt: skip
def implicit_reward_accuracy(table: Table) -> Estimate:
    """Share of pairs whose chosen response has the larger log-ratio to the reference."""
    return _share(
        table["logp_policy_chosen"] - table["logp_ref_chosen"],
        table["logp_policy_rejected"] - table["logp_ref_rejected"],
        table,
    )


@metric(
    "chosen_fell", title="chosen responses that lost probability", unit="%", better=-1,
    scale=100.0, digits=1, table=PAIRS,
)  # fmt: skip
def chosen_fell(table: Table) -> Estimate:
    """Likelihood displacement: share of chosen responses below their reference log-prob."""
    fell = table["logp_policy_chosen"] < table["logp_ref_chosen"]
    return mean_over_prompts(fell.astype(float), table["prompt_id"])


@metric("chosen_change", title="log-prob of chosen responses", unit="nats", digits=2, table=PAIRS)
def chosen_change(table: Table) -> Estimate:
    """Mean change of the chosen responses' log-prob against the reference."""
    change = np.asarray(table["logp_policy_chosen"] - table["logp_ref_chosen"], dtype=float)
    return mean_over_prompts(change, table["prompt_id"])


@metric(
    "chosen_lost", title="probability lost by chosen responses", unit="%", better=-1, scale=100.0,
    digits=1, table=PAIRS,
)  # fmt: skip
def chosen_lost(table: Table) -> Estimate:
    """Likelihood displacement: mean share of a chosen response's probability that is gone.

    1 - π(w)/π_ref(w) where it fell, 0 where it rose (2410.08847).
    """
    change = np.asarray(table["logp_policy_chosen"] - table["logp_ref_chosen"], dtype=float)
    return mean_over_prompts(-np.expm1(np.minimum(change, 0.0)), table["prompt_id"])


#: what is computed at evaluation and kept in the record
KEPT: tuple[Callable[[Table], Estimate], ...] = (
    ranking_accuracy,
    ranking_accuracy_ln,
    implicit_reward_accuracy,
    chosen_fell,
    chosen_change,
    chosen_lost,
)


def summarize_pairs(columns: Table) -> dict[str, dict[str, dict[str, float]]]:
    """Every metric by split: {metric: {split: {mean, se, low, high, n}}}, n counting prompts.

    Args:
        columns: the columns of pairs.parquet as arrays of equal length.
    """
    result: dict[str, dict[str, dict[str, float]]] = {}
    for split in dict.fromkeys(columns["split"].tolist()):
        rows = columns["split"] == split
        part = {name: values[rows] for name, values in columns.items()}
        for function in KEPT:
            result.setdefault(function.__name__, {})[split] = asdict(function(part))
    return result
