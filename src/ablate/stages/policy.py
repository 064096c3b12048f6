"""Stage `policy`: RPO training of the policy on K responses per prompt, stored or fresh."""

import shutil
import time
from typing import Any

from ablate.config.selection import NumResponses
from ablate.config.training import TrainingConfig
from ablate.datasets import open_dataset
from ablate.errors import DataError
from ablate.models.loading import weights_digest
from ablate.models.tokenizer import load_tokenizer
from ablate.objectives import Objective
from ablate.sampling.responses import Count
from ablate.sampling.select import drawn_numbers, gap
from ablate.stages.common import (
    CURVE,
    REF_LOGPS,
    RESULT,
    SCORES,
    STEPS,
    as_lists,
    drawn_from,
    grouped,
    joined,
    load_policy,
    model_of,
    read_pool,
)
from ablate.stages.context import Context
from ablate.stages.curve import curve_of, fixed_at_sft
from ablate.stages.rollout import SELECTION_SEED, fresh_groups, pick, reward_fields
from ablate.store.files import read_json, write_json
from ablate.store.tables import read_table, write_table
from ablate.training.behaviour import Behaviour
from ablate.training.groups import Group
from ablate.training.online import FreshGroups
from ablate.training.policy import PolicyResult, train_policy
from ablate.trl_compat.arguments import world_size


def run(context: Context) -> None:
    """Writes step-<n>/ model folders, train.parquet, result.json and, if asked, curve.parquet."""
    started = time.monotonic()
    earlier = _diverged_before(context)
    if earlier is not None:
        _pass_on(context, earlier)
        return
    init = model_of(context.inputs, "init")
    model, _ = load_policy(init, context.run)
    tokenizer = load_tokenizer(str(init))
    reference = None
    compares = "sft" in context.inputs and context.run.base_model.lora is None
    if "reference" in context.inputs or (compares and fixed_at_sft(context)):
        role = "reference" if "reference" in context.inputs else "init"
        reference, _ = load_policy(model_of(context.inputs, role), context.run)
        reference.requires_grad_(False)
    online = context.params["collection"] != "offline"
    groups: list[Group] | FreshGroups
    dropped = 0
    unfit: dict[str, int] = {}
    if online:
        groups, unfit = fresh_groups(context, model, tokenizer)
    else:
        groups, dropped = select_groups(context)
    work = context.out / "work"
    result = train_policy(
        model,
        tokenizer,
        groups,
        Objective(context.run.objective),
        TrainingConfig.model_validate(
            TrainingConfig.with_neutral(
                {
                    **context.params["training"],
                    "name": "",
                    "select_checkpoint": "last",
                    "select_by": "judge",
                }
            )
        ),
        lora=context.run.base_model.lora,
        behaviour=_behaviour(context),
        reference=reference,
        curve=curve_of(context, model, tokenizer, reference),
        seed=context.params["seed"],
        work_dir=work,
        report=context.report,
        log=context.log,
        partial=context.partial,
        budget=context.budget,
    )
    if not context.leads:
        return
    for step, folder in result.checkpoints:
        folder.rename(context.out / f"step-{step}")
    saved = [step for step, _ in result.checkpoints]
    if not saved:
        # diverged before the first checkpoint: the initial weights are the last finite ones
        shutil.copytree(init, context.out / "step-0")
        saved = [0]
    shutil.rmtree(work, ignore_errors=True)
    write_table(result.steps, context.out / STEPS)
    if len(result.curve):
        write_table(result.curve, context.out / CURVE)
    last = max(saved)
    stopped = result.divergence
    responses = result.steps["responses"].sum() if len(result.steps) else 0
    write_json(
        context.out / RESULT,
        {
            "checkpoints": sorted(saved),
            "last": last,
            "diverged": None
            if stopped is None
            else {"step": stopped.step, "reason": stopped.reason},
            "weights": weights_digest(context.out / f"step-{last}"),
            "groups": groups.count if isinstance(groups, FreshGroups) else len(groups),
            "dropped_by_min_gap": dropped,
            "unfit": unfit,
            "responses": int(responses)
            if isinstance(groups, FreshGroups)
            else sum(len(group.response_ids) for group in groups),
            "tokens": int(result.steps["tokens"].iloc[-1]) if len(result.steps) else 0,
            "curve": result.curve.to_dict("records"),
            "generated": _generated(model, result),
            "seconds": time.monotonic() - started,
            "processes": world_size(),
            "computed": result.computed,
        },
    )


def _generated(model: Any, result: PolicyResult) -> dict[str, int]:
    """What was sampled to train on and to measure the curve."""
    total = Count(**result.drawn.plain())
    if len(result.curve):
        total.add(int(result.curve["answers"].sum()), int(result.curve["tokens"].sum()))
    return drawn_from(model, total)


def _behaviour(context: Context) -> Behaviour:
    """Who drew stored responses: the initial policy, unless they came with the data."""
    run = context.run
    given = run.collection.kind == "offline" and open_dataset(run.dataset).has_responses
    return "given" if given else "initial"


def _diverged_before(context: Context) -> dict[str, Any] | None:
    """The result of the round before, where that round diverged."""
    if "before" not in context.inputs:
        return None
    result = read_json(context.inputs["before"] / RESULT)
    return None if result["diverged"] is None else result


def _pass_on(context: Context, earlier: dict[str, Any]) -> None:
    """A round after a divergence trains nothing: the last finite weights are the run's."""
    before = context.inputs["before"]
    last = earlier["last"]
    shutil.copytree(before / f"step-{last}", context.out / f"step-{last}")
    write_table(read_table(before / STEPS).iloc[:0], context.out / STEPS)
    nothing = {
        "checkpoints": [last],
        "groups": 0,
        "dropped_by_min_gap": 0,
        "unfit": {},
        "responses": 0,
        "tokens": 0,
        "curve": [],
        "generated": Count().plain(),
        "seconds": 0.0,
    }
    write_json(context.out / RESULT, {**earlier, **nothing})


def select_groups(context: Context) -> tuple[list[Group], int]:
    """The groups that enter the loss: K of N responses per prompt, with all that is known.

    Returns:
        the groups, and how many prompts `num_responses.min_gap` left out.

    Raises:
        DataError: it left out all of them.
    """
    chosen = NumResponses.model_validate(context.params["num_responses"])
    pool = read_pool(context.inputs["pool"])
    scores = read_table(context.inputs["scores"] / SCORES)
    known = [name for name in scores.columns if name not in ("prompt_id", "index", "raw")]
    table = joined(pool, scores, known)
    known_logps = read_table(context.inputs["ref_logps"] / REF_LOGPS)
    by_token = "token_logps" in known_logps.columns
    table = joined(table, known_logps, ["logp", "token_logps"] if by_token else ["logp"])
    previous = context.inputs.get("prev_logps")
    if previous is not None:
        other = read_table(previous / REF_LOGPS).rename(columns={"logp": "prev_logp"})
        table = joined(table, other, ["prev_logp"])
    needs = context.run.objective.needs
    sampled = needs.reference_sample
    # texts of the prompt that came with the data
    texts = ["gold_ids"] * needs.gold
    texts += ["rationale_ids", "rationale_prompt_ids"] * needs.rationale
    groups = []
    widest = 0.0
    for name, rows in grouped(table):
        sample_ids = None
        if sampled:
            # set apart before the choice, which looks at scores: what it leaves is no fair draw
            sample_ids, rows = list(rows["response_ids"].iloc[-1]), rows.iloc[:-1]
        if chosen.min_gap:
            # of the whole pool, so that every K trains on the same prompts
            spread = gap(rows["reward"].to_numpy())
            widest = max(widest, spread)
            if spread < chosen.min_gap:
                continue
        picked = pick(rows, chosen, name, rows["index"].tolist())
        rows = rows.iloc[picked]
        numbers = rows["index"].tolist()
        if "responses" in context.params:
            numbers = drawn_numbers((SELECTION_SEED, name), numbers)
        groups.append(
            Group(
                prompt_id=name,
                prompt_ids=list(rows["prompt_ids"].iloc[0]),
                response_ids=as_lists(rows["response_ids"]),
                ref_logps=rows["logp"].tolist(),
                ref_token_logps=[[*map(float, line)] for line in rows["token_logps"]]
                if by_token
                else None,
                pool_index=numbers,
                prev_logps=None if previous is None else rows["prev_logp"].tolist(),
                sample_ids=sample_ids,
                **{name: list(rows[name].iloc[0]) for name in texts},
                **reward_fields(rows, picked),
            )
        )
    dropped = pool["prompt_id"].nunique() - len(groups)
    if not groups:
        raise DataError(
            f"num_responses.min_gap={chosen.min_gap} leaves out all {dropped} prompts; the widest "
            f"gap between a best and a worst response is {widest:.3g} (in units of the training "
            "reward). Use a smaller num_responses.min_gap"
        )
    return groups, dropped
