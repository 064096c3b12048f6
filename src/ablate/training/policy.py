"""Preference training of a policy: step metrics, complete checkpoints, divergence as a result."""

import copy
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from ablate.config.model import Lora
from ablate.config.training import TrainingConfig
from ablate.errors import ConfigError, DataError
from ablate.models.loading import check_lengths, context_length
from ablate.models.logps import response_logps, response_token_logps
from ablate.objectives import Objective
from ablate.training.checkpoints import save_checkpoint
from ablate.training.collate import GroupCollator
from ablate.training.groups import (
    Group,
    check_groups,
    mismatched_pairs,
    mismatched_partners,
    presentation_order,
)
from ablate.training.lora import lora_config
from ablate.training.rpo import RPOTrainer
from ablate.trl_compat.arguments import (
    Optimisation,
    common_arguments,
    deterministic_algorithms,
    micro_batch,
)
from ablate.trl_compat.quiet import quiet

Report = Callable[[int, int, dict[str, float]], None]
Log = Callable[[int, dict[str, float]], None]

#: tokens per forward pass when reference log-probs are computed here
_REFERENCE_BATCH_TOKENS = 16384


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


class _Diverged(Exception):
    """Leaves the training loop before the optimizer's step."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


def train_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    objective: Objective,
    training: TrainingConfig,
    *,
    seed: int,
    work_dir: Path,
    lora: Lora | None = None,
    report: Report | None = None,
    log: Log | None = None,
) -> PolicyResult:
    """Train `model` in place on groups of responses.

    The initial weights are the reference wherever a reference log-prob is missing: for
    mismatched pairs and for objectives over tokens. A loss under `objective.loss_floor`, or one
    that is not finite, ends the training as diverged. Checkpoints are whole model folders
    `work_dir/checkpoints/step-00050` (adapters merged), there after every `checkpoint_every`
    steps and after the last. Same arguments, same weights on the same machine and thread count.
    With several processes, a last batch that does not divide is filled up from the first.

    Args:
        groups: prompts with their responses; reference log-probs come with them.
        report: called after each step with (steps done, steps in all, the step's metrics).
        log: called after each step with (step, metrics).

    Raises:
        DataError: groups that do not fit together or lack what the objective needs.
        ModelError: a sequence longer than the model's context.
        ConfigError: a batch size that does not divide.
    """
    check_groups(groups)
    if groups[0].response_prompt_ids is not None and not objective.needs.joint:
        raise DataError(
            f"objective={objective.name} compares responses to one prompt, but these groups hold "
            "responses to several (response_prompt_ids); dove is made for them"
        )
    groups = _without_unread_texts(groups, objective)
    _check_fit(groups, model)
    optimisation = _optimisation(training)
    micro_batch(optimisation)
    order, steps = _plan(len(groups), training, seed)
    groups = _with_reference(model, tokenizer, groups, objective)
    # whole distributions of the reference are too many to store: a frozen copy computes them anew
    reference = copy.deepcopy(model).requires_grad_(False) if objective.needs.token_kl else None
    collator = _collator(model, tokenizer, groups, order, objective, training.batch_size)
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
    ):
        arguments = common_arguments(
            optimisation,
            output_dir=scratch,
            seed=seed,
            max_steps=steps,
            model=model,
            mixed_bf16=narrow,
        )
        watch = _Watch(
            training,
            objective.config.loss_floor,
            work_dir / "checkpoints",
            tokenizer,
            saved_dtype,
            report,
            log,
        )
        trainer = RPOTrainer(
            model,
            arguments,
            objective=objective,
            reference=reference,
            collator=collator,
            num_positions=len(order),
            tokenizer=tokenizer,
            callbacks=[watch],
            peft_config=None if lora is None else lora_config(lora),
        )
        watch.trainer = trainer
        divergence = None
        try:
            trainer.train()
        except _Diverged as stop:
            last = watch.checkpoints[-1][0] if watch.checkpoints else 0
            divergence = Divergence(stop.step, stop.reason, last)
        finally:
            trainer.release()
    return PolicyResult(pd.DataFrame(watch.rows), watch.checkpoints, divergence)


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


def _plan(count: int, training: TrainingConfig, seed: int) -> tuple[list[int], int]:
    """Order of presentation and number of optimizer steps; the last batch may be smaller."""
    total = math.ceil(count * training.epochs)
    steps = math.ceil(total / training.batch_size)
    if training.max_steps is not None and training.max_steps < steps:
        steps = training.max_steps
        total = steps * training.batch_size
    if steps < 1:
        raise ConfigError(f"training.epochs={training.epochs} of {count} prompts is no step at all")
    return presentation_order(count, total, seed), steps


def _without_unread_texts(groups: Sequence[Group], objective: Objective) -> Sequence[Group]:
    """No forward pass for a gold response, rationale or sample that the loss does not read."""
    needs = objective.needs
    unread: dict[str, Any] = {}
    if not needs.gold:
        unread["gold_ids"] = None
    if not needs.rationale:
        unread |= {"rationale_ids": None, "rationale_prompt_ids": None}
    if not needs.reference_sample:
        unread["sample_ids"] = None
    if all(getattr(groups[0], name) is None for name in unread):
        return groups
    return [replace(group, **unread) for group in groups]


def _check_fit(groups: Sequence[Group], model: PreTrainedModel) -> None:
    """Raise a ModelError for a sequence longer than the context."""
    rows = (row for group in groups for row in (*group.rows(), *group.side_texts().values()))
    lengths = (len(prompt) + len(ids) for prompt, ids in rows)
    check_lengths(lengths, context_length(model), "prompt and response")


def _with_reference(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    objective: Objective,
) -> Sequence[Group]:
    needs = objective.needs
    if not (needs.tokens and needs.reference) or groups[0].ref_token_logps is not None:
        return groups
    items = [(prompt, [ids]) for group in groups for prompt, ids in group.rows()]
    values = iter(response_token_logps(model, tokenizer, items, _REFERENCE_BATCH_TOKENS))
    return [
        replace(group, ref_token_logps=[next(values)[0] for _ in group.response_ids])
        for group in groups
    ]


def _collator(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    order: list[int],
    objective: Objective,
    batch_size: int,
) -> GroupCollator:
    pad = int(tokenizer.pad_token_id)
    if not objective.needs.mismatched or len(groups) < 2:
        return GroupCollator(groups, order, pad)
    partners = mismatched_partners(order, batch_size)
    pairs = [
        mismatched_pairs(groups[position], groups[partner])
        for position, partner in zip(order, partners, strict=True)
    ]
    check_lengths(
        (len(prompt) + len(ids) for rows in pairs for prompt, ids in rows),
        context_length(model),
        "mismatched prompt and response",
    )
    items = [(prompt, [ids]) for rows in pairs for prompt, ids in rows]
    values = iter(response_logps(model, tokenizer, items, _REFERENCE_BATCH_TOKENS))
    reference = [[next(values)[0] for _ in rows] for rows in pairs]
    return GroupCollator(groups, order, pad, partners, reference)


class _Watch(TrainerCallback):
    """Checks each step before it is taken, writes its row, saves checkpoints."""

    def __init__(
        self,
        training: TrainingConfig,
        loss_floor: float | None,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        saved_dtype: torch.dtype | None,
        report: Report | None,
        log: Log | None,
    ) -> None:
        self.training, self.folder, self.tokenizer = training, folder, tokenizer
        self.loss_floor = loss_floor
        self.saved_dtype, self.report, self.log = saved_dtype, report, log
        self.trainer: Any = None
        self.rows: list[dict[str, float]] = []
        self.checkpoints: list[tuple[int, Path]] = []
        self._started = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step + 1
        loss, norm = self.trainer.step_loss(), self.trainer.last_grad_norm
        reason = self._objection(loss, norm)
        row = {
            "step": step,
            "loss": loss,
            "grad_norm": norm,
            "lr": self.trainer._get_learning_rate(),
            **self.trainer.step_metrics(),
        }
        row["seconds"] = time.perf_counter() - self._started
        self.rows.append(row)
        if reason is not None:
            raise _Diverged(step, reason)

    def _objection(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if self.loss_floor is not None and loss < self.loss_floor:
            return f"the loss {loss:.6g} is under objective.loss_floor={self.loss_floor:g}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        return None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, row = state.global_step, self.rows[-1]
        if step % self.training.checkpoint_every == 0 or step == state.max_steps:
            reason = self.trainer.probe()
            if reason is not None:
                raise _Diverged(step, f"after its update {reason}")
            folder = self.folder / f"step-{step:05d}"
            save_checkpoint(self.trainer, self.tokenizer, folder, self.saved_dtype)
            self.checkpoints.append((step, folder))
        if self.log is not None:
            self.log(step, row)
        if self.report is not None:
            self.report(step, state.max_steps, row)
