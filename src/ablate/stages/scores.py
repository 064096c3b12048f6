"""Stage `scores`: the training reward of every response, and the scale that normalises it."""

import numpy as np

from ablate.evaluation.answers import answers_of
from ablate.rewards.normalize import pair_accuracy, score_scale
from ablate.stages.common import LABELS, RESULT, SCORES, joined, open_scorer, read_pool
from ablate.stages.context import Context
from ablate.store.files import write_json
from ablate.store.tables import read_table, write_table


def run(context: Context) -> None:
    """Writes scores.parquet (prompt_id, index, raw, score) and result.json with the scale.

    `score` is `raw` over the scale. result.json also tells how well the source agrees with the
    labels: accuracy over untied within-prompt pairs and the correlation over all.
    """
    reward = context.params["reward"]
    pool = read_pool(context.inputs["pool"])
    labels = read_table(context.inputs["labels"] / LABELS)
    # where a label model is at work, the judge's own scores stand beside what annotators say
    seen = "clean" if reward["kind"] == "gold" and "clean" in labels else "label"
    labelled = joined(pool, labels, list(dict.fromkeys(["label", seen])))
    scorer = open_scorer(reward, context.run, context.inputs)
    raw = labelled[seen].to_numpy() if scorer is None else scorer.score(answers_of(pool))
    prompts = labelled["prompt_id"].to_numpy()
    scale = score_scale(raw, prompts, reward["normalize"])
    table = labelled[["prompt_id", "index"]].copy()
    table["raw"], table["score"] = raw, raw / scale
    write_table(table, context.out / SCORES)
    label = labelled["label"].to_numpy()
    varied = float(np.std(raw)) > 0 and float(np.std(label)) > 0
    write_json(
        context.out / RESULT,
        {
            "kind": reward["kind"],
            "scale": scale,
            "pair_accuracy": _finite(pair_accuracy(raw, label, prompts)),
            "correlation": float(np.corrcoef(raw, label)[0, 1]) if varied else None,
        },
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
