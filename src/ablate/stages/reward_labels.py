"""The labels of a learnt reward: which prompts are trained on, which are held out, which pairs."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ablate.errors import DataError
from ablate.stages.common import as_lists, grouped, labelled, read_pool
from ablate.stages.reward_plan import held_out

#: a prompt's id with its responses and their labels
LabelledPrompt = tuple[str, pd.DataFrame]
KINDS = ("id", "ood")


class Pair(NamedTuple):
    """Two responses to one prompt (token ids) with their labels, `best` the better one."""

    prompt_id: str
    prompt: list[int]
    best: list[int]
    worst: list[int]
    high: float
    low: float


def labelled_prompts(
    inputs: dict[str, Path], prompts: str
) -> tuple[list[LabelledPrompt], dict[str, pd.DataFrame]]:
    """The prompts to train on, and those that measure the source, by kind.

    Of each kind that is trained on the first tenth is held out; of the other all measure.

    Args:
        inputs: `pool_id`, `labels_id` and, where the dataset has prompts of another kind,
            `pool_ood` and `labels_ood`.
        prompts: `id`, `ood` or `mix`.
    """
    training: list[list[LabelledPrompt]] = []
    measuring = {}
    for kind in KINDS:
        if f"pool_{kind}" not in inputs:
            continue
        pool = read_pool(inputs[f"pool_{kind}"])
        groups = list(grouped(labelled(pool, inputs[f"labels_{kind}"])))
        used = prompts in (kind, "mix")
        kept = held_out(len(groups)) if used else len(groups)
        measuring[kind] = pd.concat([rows for _, rows in groups[:kept]], ignore_index=True)
        training.append(groups[kept:])
    return list(_in_turn(training)), measuring


def _in_turn(parts: list[list[LabelledPrompt]]) -> Iterator[LabelledPrompt]:
    """One of each part after another, so that every beginning holds both kinds."""
    for row in zip_longest(*parts):
        yield from (item for item in row if item is not None)


def comparisons(groups: list[LabelledPrompt], seed: int, limit: int | None) -> list[Pair]:
    """Random disjoint pairs of each prompt's responses, ties left out; at most `limit` in all.

    Disjoint pairs use every label once, so that explicit and implicit sources with the same
    limit have seen the same labels.

    Raises:
        DataError: fewer comparisons than `limit`.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    pairs: list[Pair] = []
    for name, rows in groups:
        order = rng.permutation(len(rows))
        ids, labels = as_lists(rows["response_ids"]), rows["label"].tolist()
        prompt = list(rows["prompt_ids"].iloc[0])
        for left, right in zip(order[0::2], order[1::2], strict=False):
            if labels[left] == labels[right]:
                continue
            best, worst = (left, right) if labels[left] > labels[right] else (right, left)
            pairs.append(Pair(name, prompt, ids[best], ids[worst], labels[best], labels[worst]))
    if limit is not None and len(pairs) < limit:
        raise DataError(
            f"reward.training.num_labels={limit}, but the labelled prompts hold {len(pairs)} "
            "untied comparisons; lower it, or raise dataset.sizes.reward (dataset.reward_share)"
        )
    return pairs[:limit]
