"""Stage `policy`: RPO training of the policy on K selected responses per prompt."""

import shutil
import time
from typing import Any

import pandas as pd

from ablate.config.training import TrainingConfig
from ablate.models.loading import weights_digest
from ablate.models.tokenizer import load_tokenizer
from ablate.objectives import Objective
from ablate.sampling.select import select_indices
from ablate.stages.common import (
    MODEL,
    REF_LOGPS,
    RESULT,
    SCORES,
    STEPS,
    as_lists,
    grouped,
    joined,
    load_policy,
    read_pool,
)
from ablate.stages.context import Context
from ablate.store.files import write_json
from ablate.store.tables import read_table, write_table
from ablate.training.groups import Group
from ablate.training.policy import train_policy

#: the random others of `select=paper` depend on the prompt and the pool alone: every objective,
#: K and seed of the policy chooses from the same order
SELECTION_SEED = 0


def run(context: Context) -> None:
    """Writes step-<n>/ model folders, train.parquet and result.json."""
    started = time.monotonic()
    groups = select_groups(context)
    model, _ = load_policy(context.inputs["init"] / MODEL, context.run)
    tokenizer = load_tokenizer(str(context.inputs["init"] / MODEL))
    work = context.out / "work"
    result = train_policy(
        model,
        tokenizer,
        groups,
        Objective(context.run.objective),
        TrainingConfig.model_validate(
            {
                **context.params["training"],
                "name": "",
                "select_checkpoint": "last",
                "select_by": "judge",
            }
        ),
        lora=context.run.base_model.lora,
        seed=context.params["seed"],
        work_dir=work,
        report=context.report,
        log=context.log,
    )
    for step, folder in result.checkpoints:
        folder.rename(context.out / f"step-{step}")
    saved = [step for step, _ in result.checkpoints]
    if not saved:
        # diverged before the first checkpoint: the initial weights are the last finite ones
        shutil.copytree(context.inputs["init"] / MODEL, context.out / "step-0")
        saved = [0]
    shutil.rmtree(work, ignore_errors=True)
    write_table(result.steps, context.out / STEPS)
    last = max(saved)
    stopped = result.divergence
    write_json(
        context.out / RESULT,
        {
            "checkpoints": sorted(saved),
            "last": last,
            "diverged": None
            if stopped is None
            else {"step": stopped.step, "reason": stopped.reason},
            "weights": weights_digest(context.out / f"step-{last}"),
            "groups": len(groups),
            "responses": sum(len(group.response_ids) for group in groups),
            "tokens": int(result.steps["tokens"].iloc[-1]) if len(result.steps) else 0,
            "seconds": time.monotonic() - started,
        },
    )


def select_groups(context: Context) -> list[Group]:
    """The groups that enter the loss: K of N responses per prompt, with all that is known."""
    chosen = context.params["num_responses"]
    pool = read_pool(context.inputs["pool"])
    scores = read_table(context.inputs["scores"] / SCORES)
    known = [name for name in scores.columns if name not in ("prompt_id", "index", "raw")]
    table = joined(pool, scores, known)
    table = joined(table, read_table(context.inputs["ref_logps"] / REF_LOGPS), ["logp"])
    needs = context.run.objective.needs
    sampled = needs.reference_sample
    # texts of the prompt that came with the data
    texts = ["gold_ids"] * needs.gold
    texts += ["rationale_ids", "rationale_prompt_ids"] * needs.rationale
    groups = []
    for name, rows in grouped(table):
        sample_ids = None
        if sampled:
            # set apart before the choice, which looks at scores: what it leaves is no fair draw
            sample_ids, rows = list(rows["response_ids"].iloc[-1]), rows.iloc[:-1]
        picked = select_indices(
            rows["rank"].to_numpy(),
            min(chosen["k"], len(rows)),
            chosen["select"],
            (SELECTION_SEED, name),
        )
        rows = rows.iloc[picked]
        groups.append(
            Group(
                prompt_id=name,
                prompt_ids=list(rows["prompt_ids"].iloc[0]),
                response_ids=as_lists(rows["response_ids"]),
                ref_logps=rows["logp"].tolist(),
                pool_index=rows["index"].tolist(),
                sample_ids=sample_ids,
                **{name: list(rows[name].iloc[0]) for name in texts},
                **reward_fields(rows, picked),
            )
        )
    return groups


def reward_fields(rows: pd.DataFrame, picked: list[int]) -> dict[str, Any]:
    """What the training reward says of a group, by the names of `Group`.

    Args:
        rows: the columns of a `RewardTable` for the K responses of one prompt.
        picked: their places among the responses that were compared with each other.
    """
    if "reward" not in rows:
        values: dict[str, Any] = {"ranks": rows["rank"].tolist()}
    else:
        values = {"rewards": rows["reward"].tolist()}
    if "extra_rewards" in rows:
        values["extra_rewards"] = [list(map(float, extra)) for extra in rows["extra_rewards"]]
    if "win_probs" in rows:
        values["win_probs"] = [[float(line[j]) for j in picked] for line in rows["win_probs"]]
    return values
