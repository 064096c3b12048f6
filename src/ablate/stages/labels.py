"""Stage `labels`: what annotators say of every response of a pool, and what is truly so."""

from typing import Any

import numpy as np
import pandas as pd

from ablate.config.dataset import Labels
from ablate.datasets import PreferenceDataset, label_models, open_dataset
from ablate.evaluation.answers import answers_of
from ablate.rewards.agreement import pair_accuracy
from ablate.stages.common import LABELS, RESULT, joined, read_pool
from ablate.stages.context import Context
from ablate.stages.judging import judge_of
from ablate.store.files import write_json
from ablate.store.tables import write_table


def run(context: Context) -> None:
    """Writes labels.parquet: prompt_id, index, label (higher is better).

    Where labels differ from the judge's or the given scores by a label model there are also `clean`
    (those scores), and with annotators `annotator` (the group that the prompt went to) and
    `label_<group>` (each group's own utility).
    """
    dataset = open_dataset(context.run.dataset)
    pool = read_pool(context.inputs["pool"])
    judging = {}
    if context.params["source"] == "given":
        given = dataset.responses(context.params["split"])
        table = pd.DataFrame(
            {
                "prompt_id": [item.prompt_id for item in given],
                "index": [item.index for item in given],
                "label": [float(item.score) for item in given],
            }
        )
        labels = joined(pool, table, ["label"])[["prompt_id", "index", "label"]]
    else:
        judge = judge_of(context, dataset, [context.params["split"]])
        labels = pool[["prompt_id", "index"]].copy()
        labels["label"] = judge.score(answers_of(pool))
        judging = {"judging": judge.tally.plain()}
    noise = _apply(context, dataset, pool, labels) if "model" in context.params else {}
    write_table(labels, context.out / LABELS)
    spread = labels.groupby("prompt_id")["label"].std().mean()
    write_json(
        context.out / RESULT,
        {
            "mean": float(labels["label"].mean()),
            "within_prompt_sd": None if pd.isna(spread) else float(spread),
            **judging,
            **noise,
        },
    )


def _apply(
    context: Context, dataset: PreferenceDataset, pool: pd.DataFrame, labels: pd.DataFrame
) -> dict[str, Any]:
    """Puts a label model on top of clean scores, in place; returns what it did."""
    config = Labels.model_validate(context.params["model"])
    prompts, clean = pool["prompt_id"].tolist(), labels["label"].to_numpy()
    made = label_models.label(
        config,
        context.params["seed"],
        prompts,
        pool["index"].tolist(),
        pool["response"].tolist(),
        clean,
        dataset.nuisance_words,
    )
    labels["label"], labels["clean"] = made.label, clean
    for name, utility in made.utilities.items():
        labels[f"label_{name}"] = utility
    if made.utilities:
        labels["annotator"] = made.annotator
    agreement = pair_accuracy(made.label, clean, labels["prompt_id"].to_numpy())
    total = sum(group.share for group in config.annotators)
    return {
        "agrees_with_clean": agreement if np.isfinite(agreement) else None,
        "per_character": made.per_character,
        "annotators": {group.name: group.share / total for group in config.annotators},
    }
