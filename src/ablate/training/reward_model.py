"""Reward models trained from a causal model's weights: scalar ones and preference models."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.errors import ConfigError, DataError
from ablate.models.loading import check_lengths, context_length, resolve_device, resolve_dtype
from ablate.training.groups import presentation_order
from ablate.training.resume import train_resumably
from ablate.training.table import Report, StepTable
from ablate.trl_compat.arguments import (
    Optimisation,
    common_arguments,
    fitting_micro_batch,
    micro_batch,
    padded_count,
    world_size,
)
from ablate.trl_compat.quiet import quiet


@dataclass(frozen=True)
class Comparison:
    """A prompt with a better and a worse response (token ids, end token included)."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


@dataclass(frozen=True)
class ScoredResponse:
    """A prompt with a response and the score that a regression should return."""

    prompt_ids: list[int]
    response_ids: list[int]
    score: float


class RewardSettings(Protocol):
    """What this module reads of the `reward.training` node."""

    @property
    def loss(self) -> Literal["bradley_terry", "regression", "preference"]: ...
    @property
    def lr(self) -> float: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def epochs(self) -> float: ...


def train_reward_model(
    model_dir: Path | str,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Comparison] | Sequence[ScoredResponse],
    settings: RewardSettings,
    *,
    seed: int,
    work_dir: Path,
    report: Report | None = None,
    dtype: str = "float32",
    device: str = "auto",
    outputs: int = 1,
    tau: float | None = None,
    micro_batch_size: int | None = None,
    gradient_checkpointing: bool = False,
    partial: Path | None = None,
) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Train a sequence classifier, started from a causal model's weights.

    `bradley_terry` takes comparisons and maximises log σ(r_chosen − r_rejected);
    `regression` takes scored responses and minimises (r − score)²; `preference` takes comparisons,
    gives each response an embedding of `outputs` numbers and maximises log σ(s/tau), s the
    general preference score (arXiv 2410.02197). AdamW at a constant rate; the head is drawn from
    `seed`. With several processes, fillers that weigh nothing make up a last batch that does not
    divide.

    Args:
        micro_batch_size: examples per forward pass and process at most; None: all of a step.
        partial: where the training is saved when the process is asked to end, and taken up again.

    Returns:
        the model (in evaluation mode) and one row per step.

    Raises:
        DataError: no examples, of the wrong kind, or a score that is not finite.
        ConfigError: a loss that is no reward model's.
    """
    _check(examples, settings.loss)
    from ablate.trl_compat.reward import TokenRewardTrainer, classifier_from_causal

    pad = int(tokenizer.pad_token_id)
    model = classifier_from_causal(
        str(model_dir), pad_token_id=pad, seed=seed, outputs=outputs, dtype=torch.float32
    )
    place = resolve_device(device)
    kept_dtype = resolve_dtype(dtype, place)
    model.to(place)
    rows = [_sequences(example) for example in examples]
    check_lengths((len(ids) for row in rows for ids in row), context_length(model))
    steps = math.ceil(math.ceil(len(rows) * settings.epochs) / settings.batch_size)
    order = presentation_order(len(rows), math.ceil(len(rows) * settings.epochs), seed)
    optimisation = Optimisation(
        lr=settings.lr,
        schedule="constant",
        warmup_steps=0,
        batch_size=settings.batch_size,
        micro_batch_size=fitting_micro_batch(settings.batch_size, micro_batch_size),
        weight_decay=0.0,
        max_grad_norm=1.0,
        gradient_checkpointing=gradient_checkpointing,
    )
    parts = world_size() * micro_batch(optimisation)[1]

    def collate(positions: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        asked = [int(position["index"]) for position in positions]
        places = [order[min(place, len(order) - 1)] for place in asked]
        batch = _pad([rows[place][side] for side in range(len(rows[0])) for place in places], pad)
        if settings.loss == "regression":
            scores = [getattr(examples[place], "score") for place in places]  # noqa: B009
            batch["labels"] = torch.tensor(scores, dtype=torch.float32)
        if parts > 1:
            batch["weights"] = torch.tensor([float(place < len(order)) for place in asked])
        return batch

    table = StepTable(report)
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".trainer-", dir=work_dir) as scratch, quiet():
        arguments = common_arguments(
            optimisation,
            output_dir=scratch,
            seed=seed,
            max_steps=steps,
            model=model,
            mixed_bf16=kept_dtype == torch.bfloat16,
        )
        trainer = TokenRewardTrainer(
            model,
            arguments,
            collator=collate,
            num_positions=padded_count(len(order), optimisation),
            tokenizer=tokenizer,
            callbacks=[table],
            preference_tau=tau,
        )
        try:
            train_resumably(trainer, table, partial)
        finally:
            trainer.release()
    return model.to(kept_dtype), table.frame()


def _check(examples: Sequence[Any], loss: str) -> None:
    kinds = {
        "bradley_terry": Comparison,
        "regression": ScoredResponse,
        "preference": Comparison,
    }
    if loss not in kinds:
        raise ConfigError(f"loss={loss} trains no reward model; use {', '.join(kinds)}")
    if not examples:
        raise DataError("there are no labels to train a reward model on")
    if not all(isinstance(example, kinds[loss]) for example in examples):
        raise DataError(f"loss={loss} needs examples of {kinds[loss].__name__}")
    for place, example in enumerate(examples):
        if loss == "regression" and not math.isfinite(example.score):
            raise DataError(f"scored response {place} has a score that is not finite")


def _sequences(example: Any) -> list[list[int]]:
    if isinstance(example, ScoredResponse):
        return [example.prompt_ids + example.response_ids]
    return [
        example.prompt_ids + example.chosen_ids,
        example.prompt_ids + example.rejected_ids,
    ]


def _pad(sequences: Sequence[list[int]], pad_id: int) -> dict[str, Tensor]:
    width = max(len(ids) for ids in sequences)
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in sequences])
    lengths = torch.tensor([len(row) for row in sequences])
    attention = torch.arange(width)[None, :] < lengths[:, None]
    return {"input_ids": ids, "attention_mask": attention.long()}
