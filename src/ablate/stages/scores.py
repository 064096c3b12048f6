"""Stage `scores`: the training reward of every response, shaped, and what normalises it."""

import numpy as np
import pandas as pd

from ablate.config.shaping import ShapingConfig
from ablate.evaluation.answers import answers_of
from ablate.rewards.normalize import pair_accuracy, score_scale
from ablate.rewards.shaping import Shaper
from ablate.stages.common import LABELS, RESULT, SCORES, joined, open_scorer, read_pool
from ablate.stages.context import Context
from ablate.store.files import write_json
from ablate.store.tables import read_table, write_table


def run(context: Context) -> None:
    """Writes scores.parquet (prompt_id, index, raw, score) and result.json with the scale.

    `score` is `raw` over the scale, shaped before if that is asked for. result.json also tells
    how well the source agrees with the labels (accuracy over untied within-prompt pairs and the
    correlation over all) and how far shaping went.
    """
    reward = context.params["reward"]
    pool = read_pool(context.inputs["pool"])
    labelled = joined(pool, read_table(context.inputs["labels"] / LABELS), ["label"])
    scorer = open_scorer(reward, context.run, context.inputs)
    raw = labelled["label"].to_numpy() if scorer is None else scorer.score(answers_of(pool))
    prompts = labelled["prompt_id"].to_numpy()
    shaped = _shaped(context, labelled, raw)
    scale = score_scale(shaped, prompts, reward["normalize"])
    table = labelled[["prompt_id", "index"]].copy()
    table["raw"], table["score"] = raw, shaped / scale
    write_table(table, context.out / SCORES)
    label = labelled["label"].to_numpy()
    varied = float(np.std(raw)) > 0 and float(np.std(label)) > 0
    write_json(
        context.out / RESULT,
        {
            "kind": reward["kind"],
            "scale": scale,
            "shaping": None if shaped is raw else _told(raw, shaped, labelled),
            "pair_accuracy": _finite(pair_accuracy(raw, label, prompts)),
            "correlation": float(np.corrcoef(raw, label)[0, 1]) if varied else None,
        },
    )


def _shaped(context: Context, pool: pd.DataFrame, raw: np.ndarray) -> np.ndarray:
    """float[R]: rewards after shaping, all prompts of the pool being one batch."""
    if "shaping" not in context.params:
        return raw
    shaping = context.params["shaping"]
    shaper = Shaper(ShapingConfig.model_validate({**shaping, "name": shaping["kind"]}))
    return shaper.shape(pool["prompt_id"].tolist(), raw, _tokens(pool), step=0)


def _told(raw: np.ndarray, shaped: np.ndarray, pool: pd.DataFrame) -> dict[str, float | None]:
    """How far shaping went: means, and what length has to do with the reward of right answers."""
    right, tokens = raw == 1, np.asarray(_tokens(pool))
    varied = right.any() and np.ptp(shaped[right]) > 0 and np.ptp(tokens[right]) > 0
    with_length = np.corrcoef(shaped[right], tokens[right])[0, 1] if varied else None
    return {
        "mean_before": float(raw.mean()),
        "mean_after": float(shaped.mean()),
        "length_correlation": None if with_length is None else float(with_length),
    }


def _tokens(pool: pd.DataFrame) -> list[int]:
    return [len(ids) for ids in pool["response_ids"]]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
