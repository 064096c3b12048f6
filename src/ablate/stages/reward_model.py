"""Stage `reward_model`: a learnt reward, explicit (classifier) or implicit (DPO policy)."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.config.levels import read_level
from ablate.config.objective import objective_config
from ablate.config.reward_training import RewardTraining
from ablate.config.training import TrainingConfig
from ablate.evaluation.answers import answers_of
from ablate.models.loading import build_model, save_model, weights_digest
from ablate.models.logps import response_logps
from ablate.models.tokenizer import load_tokenizer
from ablate.objectives import Objective
from ablate.rewards.normalize import pair_accuracy
from ablate.rewards.scorers import (
    LOGP_BATCH_TOKENS,
    ImplicitScorer,
    RewardModelScorer,
    Scorer,
)
from ablate.stages.common import (
    LABELS,
    MODEL,
    RESULT,
    STEPS,
    as_lists,
    grouped,
    joined,
    load_policy,
    read_pool,
    within,
)
from ablate.stages.context import Context, Report
from ablate.stages.external import model_folder
from ablate.store.files import write_json
from ablate.store.tables import read_table, write_table
from ablate.training.groups import Group
from ablate.training.policy import train_policy
from ablate.training.reward_model import Comparison, ScoredResponse, train_reward_model

#: share of the labelled prompts that is kept from training to measure the reward's accuracy
HELD_OUT = 0.1


def run(context: Context) -> None:
    """Writes model/, train.parquet and result.json with the accuracy on held-out labels."""
    started = time.monotonic()
    training = RewardTraining.model_validate(context.params["training"])
    labelled = joined(
        read_pool(context.inputs["pool"]),
        read_table(context.inputs["labels"] / LABELS),
        ["label"],
    )
    groups = grouped(labelled)
    kept = max(1, round(HELD_OUT * len(groups)))
    held_out, groups = groups[:kept], groups[kept:]
    pairs = comparisons(groups, context.params["seed"], training.num_labels)
    report = within(context.report, 0.0, 0.95)
    train = _train_implicit if training.loss == "dpo" else _train_explicit
    steps, scorer = train(context, training, pairs, report)
    shutil.rmtree(context.out / "work", ignore_errors=True)
    write_table(steps, context.out / STEPS)
    rows = pd.concat([frame for _, frame in held_out])
    scores = scorer.score(answers_of(rows))
    accuracy = pair_accuracy(scores, rows["label"].to_numpy(), rows["prompt_id"].to_numpy())
    write_json(
        context.out / RESULT,
        {
            "beta": training.beta,
            "comparisons": len(pairs),
            "held_out_prompts": len(held_out),
            "held_out_accuracy": accuracy if np.isfinite(accuracy) else None,
            "weights": weights_digest(context.out / MODEL),
            "seconds": time.monotonic() - started,
        },
    )


#: a pair of responses to one prompt with their labels, the better one first
Pair = tuple[list[int], list[int], list[int], float, float]


def comparisons(groups: list[tuple[str, pd.DataFrame]], seed: int, limit: int | None) -> list[Pair]:
    """Random disjoint pairs of each prompt's responses, ties left out; at most `limit` in all.

    Disjoint pairs use every label once, so that explicit and implicit sources with the same
    limit have seen the same labels.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    pairs: list[Pair] = []
    for _, rows in groups:
        order = rng.permutation(len(rows))
        ids, labels = as_lists(rows["response_ids"]), rows["label"].tolist()
        prompt = list(rows["prompt_ids"].iloc[0])
        for left, right in zip(order[0::2], order[1::2], strict=False):
            if labels[left] == labels[right]:
                continue
            best, worst = (left, right) if labels[left] > labels[right] else (right, left)
            pairs.append((prompt, ids[best], ids[worst], labels[best], labels[worst]))
    return pairs if limit is None else pairs[:limit]


def _train_explicit(
    context: Context, training: RewardTraining, pairs: list[Pair], report: Report
) -> tuple[pd.DataFrame, Scorer]:
    """A classifier by Bradley-Terry or by regression on standardised labels."""
    tokenizer = load_tokenizer(str(context.inputs["init"] / MODEL))
    examples: list[Any]
    if training.loss == "bradley_terry":
        examples = [Comparison(prompt, best, worst) for prompt, best, worst, _, _ in pairs]
    else:
        labels = np.array([[high, low] for *_, high, low in pairs])
        mean, sd = labels.mean(), labels.std()
        examples = [
            ScoredResponse(prompt, ids, float((label - mean) / sd))
            for prompt, best, worst, high, low in pairs
            for ids, label in ((best, high), (worst, low))
        ]
    model, steps = train_reward_model(
        _initial_folder(context, training),
        tokenizer,
        examples,
        training,
        seed=context.params["seed"],
        work_dir=context.out / "work",
        report=report,
        dtype=context.run.base_model.dtype,
        device=context.run.runtime.device,
    )
    save_model(model, tokenizer, context.out / MODEL)
    return steps, RewardModelScorer(context.out / MODEL, context.run.runtime.device)


def _initial_folder(context: Context, training: RewardTraining) -> Path:
    """The causal model whose weights the reward model starts from: SFT, or the base model."""
    base, init = context.run.base_model, context.inputs["init"] / MODEL
    if training.init == "sft":
        return init
    if base.kind == "hf":
        assert base.path is not None
        return Path(model_folder(base.path, context.params["base"]["content"]))
    tokenizer = load_tokenizer(str(init))
    folder = context.out / "work" / "base"
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_model(build_model(base, tokenizer, context.params["seed"]), tokenizer, folder)
    return folder


def _train_implicit(
    context: Context, training: RewardTraining, pairs: list[Pair], report: Report
) -> tuple[pd.DataFrame, Scorer]:
    """A policy trained by DPO on the comparisons; its implicit reward is the source."""
    init = context.inputs["init"] / MODEL
    model, tokenizer = load_policy(init, context.run)
    reference, _ = load_policy(init, context.run)
    items = [(prompt, [best, worst]) for prompt, best, worst, _, _ in pairs]
    logps = response_logps(reference, tokenizer, items, LOGP_BATCH_TOKENS)
    groups = [
        Group(str(number), prompt, responses, ref_logps=row, ranks=[1.0, 0.0])
        for number, ((prompt, responses), row) in enumerate(zip(items, logps, strict=True))
    ]
    assert training.beta is not None
    objective = objective_config({**read_level("objective", "dpo"), "beta": training.beta})
    result = train_policy(
        model,
        tokenizer,
        groups,
        Objective(objective),
        TrainingConfig.model_validate(context.params["optimisation"]),
        lora=context.run.base_model.lora,
        seed=context.params["seed"],
        work_dir=context.out / "work",
        report=report,
    )
    if result.divergence is not None:
        raise RuntimeError(
            f"the implicit reward's policy diverged at step {result.divergence.step}: "
            f"{result.divergence.reason}; lower reward.training.lr"
        )
    result.checkpoints[-1][1].rename(context.out / MODEL)
    trained, _ = load_policy(context.out / MODEL, context.run)
    return result.steps, ImplicitScorer(trained, reference, tokenizer, training.beta)
