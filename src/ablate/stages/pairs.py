"""Labelled pairs of responses and their log-probs under the policy and its reference."""

from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from ablate.datasets.draws import Draws
from ablate.models.adapted import plain
from ablate.models.logps import Item, response_logps
from ablate.rewards.scorers import LOGP_BATCH_TOKENS
from ablate.stages.common import as_lists, grouped, labelled, read_pool
from ablate.stages.context import Context

#: split -> the column that says which response is better: on train what training saw of it,
#: elsewhere what is truly so
BY = {"train": "label", "test": "clean"}
SIDES = ("chosen", "rejected")
#: columns kept in the record; token ids stay behind
KEPT = ["split", "prompt_id", "prompt"] + [
    f"{name}_{side}"
    for name in ("response", "label", "num_tokens", "logp_policy", "logp_ref")
    for side in SIDES
]


def labelled_pairs(context: Context) -> pd.DataFrame:
    """The first prompts of train and of test that have two labels, with a pair each.

    The chosen response is the best labelled one and the rejected one is drawn from those below it,
    as in arXiv 2502.00203; the draw depends on the prompt alone, so that every run has the same.

    Returns:
        split, prompt_id, prompt, prompt_ids and for chosen and rejected: response, response_ids,
        num_tokens, label. No row where all labels are tied.
    """
    rows: list[dict[str, Any]] = []
    for split, by in BY.items():
        pool = labelled(
            read_pool(context.inputs[f"{split}_pool"]), context.inputs[f"{split}_labels"]
        )
        # one after another: a pool holds many more prompts than are asked for
        found = (_pair(split, name, group, by) for name, group in grouped(pool))
        some = (row for row in found if row is not None)
        rows += islice(some, context.params["num_pairs"])
    return pd.DataFrame(rows)


def _pair(split: str, name: str, group: pd.DataFrame, by: str) -> dict[str, Any] | None:
    labels = group[by].to_numpy(dtype=float)
    best = int(np.argmax(labels))
    below = np.flatnonzero(labels < labels[best]).tolist()
    if not below:
        return None
    places = {"chosen": best, "rejected": Draws("pair", name).pick(below)}
    ids = as_lists(group["response_ids"])
    first = group.iloc[0]
    row: dict[str, Any] = {
        "split": split,
        "prompt_id": name,
        "prompt": first["prompt"],
        "prompt_ids": list(first["prompt_ids"]),
    }
    for side, place in places.items():
        row |= {
            f"response_{side}": group["response"].iloc[place],
            f"response_ids_{side}": ids[place],
            f"num_tokens_{side}": len(ids[place]),
            f"label_{side}": float(labels[place]),
        }
    return row


def with_logps(pairs: pd.DataFrame, policy: Any, reference: Any, tokenizer: Any) -> pd.DataFrame:
    """Pairs with logp_policy_<side> and logp_ref_<side>, in nats, summed over the response."""
    prompts = as_lists(pairs["prompt_ids"])
    sides = [as_lists(pairs[f"response_ids_{side}"]) for side in SIDES]
    items: list[Item] = [
        (prompt, list(both)) for prompt, both in zip(prompts, zip(*sides, strict=True), strict=True)
    ]
    for name, model in (("policy", policy), ("ref", reference)):
        with plain(model) as scored:
            values = np.array(response_logps(scored, tokenizer, items, LOGP_BATCH_TOKENS))
        for place, side in enumerate(SIDES):
            pairs[f"logp_{name}_{side}"] = values.reshape(-1, 2)[:, place]
    return pairs[KEPT]
