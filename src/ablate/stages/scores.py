"""Stage `scores`: the training reward of every response, and the scale that normalises it."""

from typing import Any

import numpy as np
import pandas as pd

from ablate.evaluation.answers import answers_of
from ablate.rewards.agreement import agreement, pairwise_agreement
from ablate.rewards.table import RewardTable, TrainingReward
from ablate.stages.common import RESULT, SCORES, labelled, read_pool
from ablate.stages.context import Context
from ablate.stages.reward_source import open_reward
from ablate.store.files import read_json, write_json
from ablate.store.tables import write_table

#: the split whose prompts the policy trains on
SPLIT = "train"


def run(context: Context) -> None:
    """Writes scores.parquet and result.json.

    scores.parquet: prompt_id, index, raw (as the source says it), and the columns of a
    `RewardTable`: rank, and where the source gives them reward (shaped and normalised),
    extra_rewards and win_probs. result.json: the fitted numbers that normalise rewards of any
    answers (`fitted`), how well the source agrees with the labels of this pool (`agreement`), what
    its learnt parts say of themselves (`learnt`), and how far shaping went.
    """
    pool = read_pool(context.inputs["pool"])
    rows = labelled(pool, context.inputs["labels"])
    reward = open_reward(context, [SPLIT], fitted=False)
    found = reward.fit(answers_of(rows))
    table = rows[["prompt_id", "index"]].copy()
    table["raw"] = reward.raw
    write_table(pd.concat([table, found.columns()], axis=1), context.out / SCORES)
    label = rows["label"].to_numpy()
    raw = table["raw"].to_numpy()
    varied = float(np.std(raw)) > 0 and float(np.std(label)) > 0
    fitted = reward.state()
    agreed = _agreement(found, raw, label, rows["clean"].to_numpy())
    write_json(
        context.out / RESULT,
        {
            "kind": context.params["reward"]["kind"],
            "scale": fitted["scale"],
            "fitted": fitted,
            "shaping": None if reward.shaper is None else _told(reward, rows),
            "pair_accuracy": agreed["accuracy"],
            "correlation": float(np.corrcoef(raw, label)[0, 1]) if varied else None,
            "agreement": agreed,
            "disagreement": disagreement(reward, found),
            "learnt": {
                name: read_json(folder / RESULT)
                for name, folder in context.inputs.items()
                if name.startswith("reward_model")
            },
        },
    )


def _told(reward: TrainingReward, pool: pd.DataFrame) -> dict[str, float | None]:
    """How far shaping went: means, and what length has to do with the reward of right answers."""
    assert reward.raw is not None
    assert reward.shaped is not None
    right, tokens = reward.raw == 1, pool["response_ids"].map(len).to_numpy()
    shaped = reward.shaped[right]
    varied = right.any() and np.ptp(shaped) > 0 and np.ptp(tokens[right]) > 0
    return {
        "mean_before": float(reward.raw.mean()),
        "mean_after": float(reward.shaped.mean()),
        "length_correlation": float(np.corrcoef(shaped, tokens[right])[0, 1]) if varied else None,
    }


def _agreement(
    table: RewardTable, raw: np.ndarray, labels: np.ndarray, clean: np.ndarray
) -> dict[str, float | None]:
    """Agreement with the labels of the pool, of win probabilities where there are any."""
    if table.win_probs is not None:
        return pairwise_agreement(table.win_probs, labels, table.prompts, clean)
    found = agreement(raw, labels, table.prompts, clean)
    # an order alone claims no probability
    return found if table.reward is not None else found | {"calibration_error": None}


def disagreement(reward: TrainingReward, table: RewardTable) -> dict[str, Any] | None:
    """Of an ensemble: how far each member is from the members' mean, in the pool.

    For each member the mean within-prompt standard deviation (ddof 1) of its difference from the
    mean, on the scale of the normalised members; None for other sources.
    """
    if not reward.source.one_scale or table.extra_rewards is None:
        return None
    members = table.extra_rewards * (1.0 if reward.normalizer is None else reward.normalizer.scale)
    apart = members - members.mean(axis=1, keepdims=True)
    frame = pd.DataFrame(apart, columns=list(reward.source.parts))
    spread = frame.groupby(table.prompts).std(ddof=1).mean()
    return {str(name): float(value) for name, value in spread.items() if np.isfinite(value)}
