"""Stage `policy`: RPO training of the policy on K selected responses per prompt."""

import shutil
import time

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
from ablate.store.files import read_json, write_json
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
            {**context.params["training"], "name": "", "select_checkpoint": "last"}
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
    table = joined(pool, read_table(context.inputs["scores"] / SCORES), ["score"])
    table = joined(table, read_table(context.inputs["ref_logps"] / REF_LOGPS), ["logp"])
    order_only = read_json(context.inputs["scores"] / RESULT)["kind"] == "labels"
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
        scores = rows["score"].to_numpy()
        picked = select_indices(
            scores, min(chosen["k"], len(rows)), chosen["select"], (SELECTION_SEED, name)
        )
        rows = rows.iloc[picked]
        values = rows["score"].tolist()
        groups.append(
            Group(
                prompt_id=name,
                prompt_ids=list(rows["prompt_ids"].iloc[0]),
                response_ids=as_lists(rows["response_ids"]),
                ref_logps=rows["logp"].tolist(),
                rewards=None if order_only else values,
                ranks=values if order_only else None,
                pool_index=rows["index"].tolist(),
                sample_ids=sample_ids,
                **{name: list(rows[name].iloc[0]) for name in texts},
            )
        )
    return groups
