"""Stage `labels`: the annotator's score of every response of a pool."""

import pandas as pd

from ablate.datasets import open_dataset
from ablate.evaluation.answers import answers_of
from ablate.stages.common import LABELS, RESULT, joined, read_pool
from ablate.stages.context import Context
from ablate.stages.judging import judge_of
from ablate.store.files import write_json
from ablate.store.tables import write_table


def run(context: Context) -> None:
    """Writes labels.parquet: prompt_id, index, label (higher is better)."""
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
    write_table(labels, context.out / LABELS)
    spread = labels.groupby("prompt_id")["label"].std().mean()
    write_json(
        context.out / RESULT,
        {
            "mean": float(labels["label"].mean()),
            "within_prompt_sd": None if pd.isna(spread) else float(spread),
            **judging,
        },
    )
