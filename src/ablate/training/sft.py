"""Supervised fine-tuning on given token ids, the loss on the response alone."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.config.model import SFT, Lora
from ablate.errors import DataError
from ablate.models.loading import check_lengths, context_length
from ablate.models.logps import pad_rows
from ablate.training.groups import presentation_order
from ablate.training.lora import lora_config, merge
from ablate.training.resume import train_resumably
from ablate.training.table import Report, StepTable
from ablate.trl_compat.arguments import Optimisation, common_arguments, fitting_micro_batch
from ablate.trl_compat.quiet import quiet

#: (prompt ids, response ids with the end token)
Example = tuple[list[int], list[int]]


def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    sft: SFT,
    *,
    seed: int,
    work_dir: Path,
    report: Report | None = None,
    lora: Lora | None = None,
    micro_batch_size: int | None = None,
    gradient_checkpointing: bool = False,
    partial: Path | None = None,
) -> pd.DataFrame:
    """Train `model` in place for `sft.steps` optimizer steps; AdamW, constant rate after warm-up.

    Examples are drawn by one seeded shuffle after another. The loss is the mean over response
    tokens of the batch. A bfloat16 model is trained with float32 master weights and cast back;
    with `lora`, adapters are trained and then merged into the weights.

    Args:
        micro_batch_size: examples per forward pass and process at most; None: all of a step.
        partial: where the training is saved when the process is asked to end, and taken up again.

    Returns:
        one row per step: step, loss (nats per token), grad_norm, lr, token_accuracy, seconds …

    Raises:
        DataError: no examples.
        ModelError: a sequence longer than the model's context.
    """
    if sft.steps == 0:
        return pd.DataFrame()
    if not examples:
        raise DataError("there are no demonstrations; set base_model.sft.steps=0 to skip SFT")
    check_lengths(
        (len(prompt) + len(response) for prompt, response in examples),
        context_length(model),
        "demonstration",
    )
    order = presentation_order(len(examples), sft.steps * sft.batch_size, seed)
    optimisation = Optimisation(
        lr=sft.lr,
        schedule="constant_with_warmup" if sft.warmup_steps else "constant",
        warmup_steps=sft.warmup_steps,
        batch_size=sft.batch_size,
        micro_batch_size=fitting_micro_batch(sft.batch_size, micro_batch_size),
        weight_decay=sft.weight_decay,
        max_grad_norm=1.0,
        gradient_checkpointing=gradient_checkpointing,
    )
    pad = int(tokenizer.pad_token_id)

    def collate(positions: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        ids, completion = pad_rows([examples[order[p["index"]]] for p in positions], pad)
        lengths = torch.tensor([sum(map(len, examples[order[p["index"]]])) for p in positions])
        attention = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
        return {
            "input_ids": ids,
            "attention_mask": attention.long(),
            "labels": ids.masked_fill(~completion, -100),
        }

    # a process that only samples or evaluates need not import the trainers
    from ablate.trl_compat.sft import TokenSFTTrainer

    dtype = next(model.parameters()).dtype
    if lora is None:
        model.float()
    table = StepTable(report)
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".trainer-", dir=work_dir) as scratch, quiet():
        arguments = common_arguments(
            optimisation,
            output_dir=scratch,
            seed=seed,
            max_steps=sft.steps,
            model=model,
            mixed_bf16=dtype != torch.float32,
        )
        trainer = TokenSFTTrainer(
            model,
            arguments,
            collator=collate,
            num_positions=len(order),
            tokenizer=tokenizer,
            callbacks=[table],
            peft_config=None if lora is None else lora_config(lora),
        )
        try:
            train_resumably(trainer, table, partial)
        finally:
            trainer.release()
    if lora is not None:
        merge(trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False))
    model.to(dtype)
    return table.frame()
