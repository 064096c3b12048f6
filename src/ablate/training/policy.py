"""Preference training of a policy on groups made before or drawn while it trains."""

import copy
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate import preemption
from ablate.config.model import Lora
from ablate.config.training import TrainingConfig
from ablate.errors import ConfigError, ModelError
from ablate.models.loading import context_length
from ablate.models.packing import Packing
from ablate.models.sharing import FLEX_BLOCK, attending, use_flex, why_not
from ablate.objectives import Objective
from ablate.sampling.responses import Count
from ablate.training.behaviour import Behaviour, of_behaviour
from ablate.training.budget import Budget, tokens_for
from ablate.training.collate import GroupCollator
from ablate.training.groups import Group, presentation_order
from ablate.training.lora import lora_config
from ablate.training.online import FreshGroups, OnlineGroups
from ablate.training.resume import Pause, find_together
from ablate.training.rpo import RPOTrainer
from ablate.training.source import (
    FixedGroups,
    GroupSource,
    check_fit,
    mismatched,
    read_by,
    with_reference,
)
from ablate.training.watch import Curve, Diverged, Log, Report, Watch
from ablate.trl_compat.arguments import (
    Optimisation,
    common_arguments,
    deterministic_algorithms,
    micro_batch,
    padded_count,
    sharded,
    world_size,
)
from ablate.trl_compat.quiet import quiet


@dataclass(frozen=True)
class Divergence:
    """Why a run was stopped, before the update of `step` or by it; a result, not a failure."""

    step: int
    reason: str
    #: the last checkpoint whose weights are finite; 0 stands for the initial weights
    last_finite_step: int


@dataclass(frozen=True)
class PolicyResult:
    """What preference training leaves."""

    #: one row per optimizer step
    steps: pd.DataFrame
    #: (step, model folder), in order; the initial weights (step 0) are not among them
    checkpoints: list[tuple[int, Path]]
    divergence: Divergence | None
    #: one row per point of the over-optimisation curve, step 0 first; empty without a curve
    curve: pd.DataFrame
    #: what was drawn from the policy to train on; none where the groups were made before
    drawn: Count
    #: how it was computed: `shared_prompt` (on, or why not), `tokens_per_device` at the end and
    #: how often memory ran out (`halvings`)
    computed: dict[str, Any]


def train_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group] | FreshGroups,
    objective: Objective,
    training: TrainingConfig,
    *,
    seed: int,
    work_dir: Path,
    lora: Lora | None = None,
    behaviour: Behaviour = "given",
    reference: PreTrainedModel | None = None,
    curve: Curve | None = None,
    report: Report | None = None,
    log: Log | None = None,
    partial: Path | None = None,
    budget: dict[str, int] | None = None,
) -> PolicyResult:
    """Train `model` in place on groups of responses.

    The reference gives the log-probs that are missing: those of fresh responses, of mismatched
    pairs and of tokens. A loss under `objective.loss_floor`, or one that is not finite, ends the
    training as diverged. Checkpoints are whole model folders `work_dir/checkpoints/step-00050`
    (adapters merged), there after every `checkpoint_every` steps and after the last. Same
    arguments, same weights on the same machine and thread count. With several processes, fillers
    that weigh nothing make up a last batch that does not divide.

    Args:
        groups: prompts with their responses, whose reference log-probs come with them; or how
            groups are drawn from the policy as it stands (then every batch is a whole one).
        behaviour: who drew groups that come as a list, for objectives with importance ratios.
        reference: a frozen model; None takes the initial weights.
        curve: measured before the first step, every so many steps and after the last.
        report: called after each step with (steps done, steps in all, the step's metrics).
        log: called after each step with (step, metrics).
        partial: where the training is saved when the process is asked to end, and taken up again
            if it was: the weights are then those of an uninterrupted training.
        budget: tokens per forward pass and halvings (as in `PolicyResult.computed`), where an
            earlier try on several processes ran out of memory.

    Raises:
        Preempted: the process was asked to end (`ablate.preemption`), after the step was finished.
        DataError: groups that do not fit together or lack what the objective needs.
        ModelError: a sequence longer than the model's context, or `training.shared_prompt=on` with
            a model that cannot take packed rows.
        ConfigError: a batch size that does not divide, or memory for less than one prompt.
        MemoryShort: memory ran out on one of several processes; begin again with its `budget`.
    """
    optimisation = _optimisation(training)
    micro_batch(optimisation)
    fresh = isinstance(groups, FreshGroups)
    # the initial weights are kept where they are asked for again: to score fresh responses, or for
    # whole distributions, too many to store; adapters are simply switched off for that
    if reference is None and lora is None and (fresh or objective.needs.token_kl):
        reference = copy.deepcopy(model).requires_grad_(False)
    obstacle = shared_prompt_obstacle(model, training)
    source: GroupSource
    flex = False
    if isinstance(groups, FreshGroups):
        order, steps = _plan(groups.count, training, seed, whole_batches=True)
        # nobody knows how long fresh responses will be
        flex = obstacle is None and use_flex(model, context_length(model) or 0)
        packing = _packing(model, obstacle, flex)
        source = OnlineGroups(
            groups, order, training.batch_size, objective, reference, tokenizer, packing
        )
    else:
        check_fit(groups, objective, model)
        order, steps = _plan(len(groups), training, seed)
        groups = of_behaviour(model, tokenizer, groups, objective, behaviour)
        frozen = model if reference is None else reference
        groups = with_reference(frozen, tokenizer, read_by(groups, objective), objective)
        pairs = mismatched(groups, order, training.batch_size, objective, frozen, tokenizer)
        longest = max(
            len(group.prompt_ids) + sum(len(ids) for ids in group.response_ids) for group in groups
        )
        flex = obstacle is None and use_flex(model, longest)
        collator = GroupCollator(
            groups,
            order,
            int(tokenizer.pad_token_id),
            *pairs,
            packing=_packing(model, obstacle, flex),
        )
        source = FixedGroups(collator)
    narrow = next(model.parameters()).dtype != torch.float32
    if narrow and lora is None:
        # updates smaller than bfloat16's spacing would be lost: float32 master weights, autocast
        saved_dtype = next(model.parameters()).dtype
        model.float()
    else:
        saved_dtype = None
    work_dir = Path(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".trainer-", dir=work_dir) as scratch,
        quiet(),
        deterministic_algorithms(training.deterministic and torch.cuda.is_available()),
        attending(model, "flex_attention" if flex else None),
    ):
        arguments = common_arguments(
            optimisation,
            output_dir=scratch,
            seed=seed,
            max_steps=steps,
            model=model,
            mixed_bf16=narrow,
        )
        watch = Watch(
            training,
            objective.config.loss_floor,
            work_dir / "checkpoints",
            tokenizer,
            saved_dtype,
            curve,
            report,
            log,
        )
        pause = Pause(partial, lambda: watch.state() | trainer.own_state(), watch.folder)
        trainer = RPOTrainer(
            model,
            arguments,
            objective=objective,
            reference=reference if objective.needs.token_kl else None,
            source=source,
            budget=_budget(model, training),
            num_positions=padded_count(len(order), optimisation),
            tokenizer=tokenizer,
            callbacks=[watch, pause],
            peft_config=None if lora is None else lora_config(lora),
        )
        watch.trainer = pause.trainer = trainer
        divergence, saved = None, find_together(partial, trainer)
        if saved is not None:
            saved.restore_checkpoints(watch.folder)
            watch.load(saved.state())
            trainer.load_own_state(saved.state())
        if budget is not None:
            # what was found here may be less
            tokens = min(trainer.budget.tokens, budget["tokens_per_device"])
            trainer.budget.load_state({**budget, "tokens_per_device": tokens})
        try:
            with preemption.saving():
                trainer.train(resume_from_checkpoint=None if saved is None else saved.trainer)
        except Diverged as stop:
            last = watch.checkpoints[-1][0] if watch.checkpoints else 0
            divergence = Divergence(stop.step, stop.reason, last)
        finally:
            trainer.release()
    rows, points = pd.DataFrame(watch.rows), pd.DataFrame(watch.points)
    drawn = source.drawn if isinstance(source, OnlineGroups) else Count()
    computed = {"shared_prompt": obstacle or "on", **trainer.budget.state()}
    return PolicyResult(rows, watch.checkpoints, divergence, points, drawn, computed)


def shared_prompt_obstacle(model: PreTrainedModel, training: TrainingConfig) -> str | None:
    """Why responses do not share their prompt's row; None: they do.

    Raises:
        ModelError: they should (`on`), and the model cannot.
    """
    if training.shared_prompt == "off":
        return "off"
    reason = why_not(model)
    if reason is None:
        return None
    if training.shared_prompt == "on":
        raise ModelError(
            f"training.shared_prompt=on: {reason}. Use training.shared_prompt=auto or off, which "
            "give every response a row of its own"
        )
    if os.environ.get("RANK", "0") == "0":
        print(
            f"training.shared_prompt=auto: {reason}; every response gets a row of its own",
            file=sys.stderr,
        )
    return reason


def _packing(model: PreTrainedModel, obstacle: str | None, flex: bool) -> Packing | None:
    if obstacle is not None:
        return None
    # blocks that nobody sees cost nothing there, so no prompt is worth repeating
    return Packing(0.0, FLEX_BLOCK) if flex else Packing.of(model.config)


def _budget(model: PreTrainedModel, training: TrainingConfig) -> Budget:
    asked = training.tokens_per_device
    if asked != "auto":
        return Budget(asked, training.micro_batch_size, found=False)
    processes = world_size() if sharded() else 1
    # a model that waits on the CPU to be sharded will be on a GPU
    on_gpu = model.device.type == "cuda" or (sharded() and torch.cuda.is_available())
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else model.device
    tokens = tokens_for(model, device, training.gradient_checkpointing, processes)
    return Budget(tokens, training.micro_batch_size, found=True)


def _optimisation(training: TrainingConfig) -> Optimisation:
    return Optimisation(
        lr=training.lr,
        schedule=training.schedule,
        warmup_steps=training.warmup_steps,
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        adam_epsilon=training.adam_epsilon,
        gradient_checkpointing=training.gradient_checkpointing,
    )


def _plan(
    count: int, training: TrainingConfig, seed: int, *, whole_batches: bool = False
) -> tuple[list[int], int]:
    """Order of presentation and number of optimizer steps.

    The last batch may be smaller, unless `whole_batches` fills it with prompts of the next pass.
    """
    total = math.ceil(count * training.epochs)
    steps = math.ceil(total / training.batch_size)
    if training.max_steps is not None and training.max_steps < steps:
        steps = training.max_steps
        total = steps * training.batch_size
    if whole_batches:
        total = steps * training.batch_size
    if steps < 1:
        raise ConfigError(f"training.epochs={training.epochs} of {count} prompts is no step at all")
    return presentation_order(count, total, seed), steps
