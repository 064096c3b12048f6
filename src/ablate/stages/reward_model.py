"""Stage `reward_model`: a learnt reward: a classifier, a policy or a preference model."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.config.objective import objective_of_slots
from ablate.config.reward import PreferenceTraining, RewardTraining
from ablate.config.training import TrainingConfig
from ablate.errors import ConfigError
from ablate.evaluation.answers import answers_of
from ablate.models.loading import build_model, save_model, weights_digest
from ablate.models.logps import response_logps
from ablate.models.tokenizer import load_tokenizer
from ablate.objectives import Objective
from ablate.rewards.agreement import agreement, pairwise_agreement
from ablate.rewards.scorers import (
    LOGP_BATCH_TOKENS,
    GeneralPreference,
    ImplicitScorer,
    RewardModelScorer,
)
from ablate.stages.common import MODEL, RESULT, STEPS, load_pair, load_policy, within
from ablate.stages.context import Context, Report
from ablate.stages.external import model_folder
from ablate.stages.reward_labels import Pair, comparisons, labelled_prompts
from ablate.store.files import write_json
from ablate.store.tables import write_table
from ablate.training.groups import Group
from ablate.training.policy import train_policy
from ablate.training.reward_model import Comparison, ScoredResponse, train_reward_model

Learnt = RewardModelScorer | ImplicitScorer | GeneralPreference


def run(context: Context) -> None:
    """Writes model/, train.parquet and result.json.

    result.json tells which labels the source saw and, for held-out prompts of the kind it was
    trained on and for prompts of the other kind (`held_out`: id, ood), how well it agrees with
    the labels and with the scores behind them: accuracy over untied pairs, expected calibration
    error of P(win), mean within-prompt correlations of Pearson and Spearman
    (`rewards.agreement`).
    """
    started = time.monotonic()
    params = context.params
    settings = params["training"]
    groups, measuring = labelled_prompts(context.inputs, settings["prompts"])
    pairs = comparisons(groups, params["seed"], settings["num_labels"])
    report = within(context.report, 0.0, 0.95)
    train = _train_implicit if params["kind"] == "implicit" else _train_classifier
    steps, model, extra = train(context, pairs, report)
    if not context.leads:
        return
    assert model is not None
    shutil.rmtree(context.out / "work", ignore_errors=True)
    write_table(steps, context.out / STEPS)
    write_json(
        context.out / RESULT,
        {
            **extra,
            "labels": {
                "prompts": settings["prompts"],
                "num_prompts": len({pair.prompt_id for pair in pairs}),
                "comparisons": len(pairs),
            },
            "held_out": {kind: _measured(model, rows) for kind, rows in measuring.items()},
            "weights": weights_digest(context.out / MODEL),
            "seconds": time.monotonic() - started,
        },
    )


def _measured(model: Learnt, rows: pd.DataFrame) -> dict[str, Any]:
    """Agreement with the labels of some prompts."""
    truth = [rows[name].to_numpy() for name in ("label", "prompt_id", "clean")]
    answers = answers_of(rows)
    if isinstance(model, GeneralPreference):
        found = pairwise_agreement(model.compare(answers), *truth)
    else:
        found = agreement(model.score(answers), *truth)
    return {"num_prompts": int(rows["prompt_id"].nunique()), **found}


def _train_classifier(
    context: Context, pairs: list[Pair], report: Report
) -> tuple[pd.DataFrame, Learnt | None, dict[str, Any]]:
    """By Bradley-Terry, by regression on standardised labels, or a general preference model.

    Like `_train_implicit`, it saves and returns the model where the process leads.
    """
    kind, device = context.params["kind"], context.run.runtime.device
    tokenizer = load_tokenizer(str(context.inputs["init"] / MODEL))
    settings: RewardTraining | PreferenceTraining
    examples: list[Any] = [Comparison(pair.prompt, pair.best, pair.worst) for pair in pairs]
    dim = 1
    if kind == "preference":
        settings = PreferenceTraining.model_validate(context.params["training"])
        dim = settings.dim
    else:
        settings = RewardTraining.model_validate(context.params["training"])
    if kind == "regression":
        examples = _standardised(pairs)
    model, steps = train_reward_model(
        _initial_folder(context, settings.init),
        tokenizer,
        examples,
        settings,
        seed=context.params["seed"],
        work_dir=context.out / "work",
        report=report,
        dtype=context.run.base_model.dtype,
        micro_batch_size=context.run.base_model.micro_batch_size,
        gradient_checkpointing=context.run.base_model.gradient_checkpointing,
        device=device,
        outputs=dim,
        tau=settings.tau if isinstance(settings, PreferenceTraining) else None,
        partial=context.partial,
    )
    folder = context.out / MODEL
    if not context.leads:
        return steps, None, {}
    save_model(model, tokenizer, folder)
    if isinstance(settings, PreferenceTraining):
        return steps, GeneralPreference(folder, device, settings.tau), {"tau": settings.tau}
    return steps, RewardModelScorer(folder, device), {}


def _standardised(pairs: list[Pair]) -> list[ScoredResponse]:
    labels = np.array([[pair.high, pair.low] for pair in pairs])
    mean, sd = labels.mean(), labels.std()
    return [
        ScoredResponse(pair.prompt, ids, float((label - mean) / sd))
        for pair in pairs
        for ids, label in ((pair.best, pair.high), (pair.worst, pair.low))
    ]


def _initial_folder(context: Context, start: str) -> Path:
    """The causal model whose weights the reward model starts from: SFT, or the base model."""
    base, init = context.run.base_model, context.inputs["init"] / MODEL
    if start == "sft":
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
    context: Context, pairs: list[Pair], report: Report
) -> tuple[pd.DataFrame, Learnt | None, dict[str, Any]]:
    """A policy trained on the comparisons by an objective; its implicit reward is the source."""
    init = context.inputs["init"] / MODEL
    model, tokenizer = load_policy(init, context.run)
    items = [(pair.prompt, [pair.best, pair.worst]) for pair in pairs]
    # it is its own reference before it is trained: one copy is enough
    logps = response_logps(model, tokenizer, items, LOGP_BATCH_TOKENS)
    groups = [
        Group(str(number), prompt, responses, ref_logps=row, ranks=[1.0, 0.0])
        for number, ((prompt, responses), row) in enumerate(zip(items, logps, strict=True))
    ]
    objective = objective_of_slots(context.params["objective"]["slots"], "implicit reward")
    result = train_policy(
        model,
        tokenizer,
        groups,
        Objective(objective),
        TrainingConfig.model_validate(TrainingConfig.with_neutral(context.params["optimisation"])),
        lora=context.run.base_model.lora,
        seed=context.params["seed"],
        work_dir=context.out / "work",
        report=report,
        partial=context.partial,
        budget=context.budget,
    )
    if result.divergence is not None:
        raise ConfigError(
            f"the implicit reward's policy diverged at step {result.divergence.step}: "
            f"{result.divergence.reason}; lower reward.training.lr"
        )
    if not context.leads:
        return result.steps, None, {}
    result.checkpoints[-1][1].rename(context.out / MODEL)
    del model
    trained, reference, _ = load_pair(context.out / MODEL, init, context.run)
    scorer = ImplicitScorer(trained, reference, tokenizer, objective.beta)
    return result.steps, scorer, {"beta": objective.beta}
