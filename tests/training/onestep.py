"""One optimizer step of the real trainer: its loss and gradient, without the update."""

import torch
from transformers import TrainerCallback

from ablate.models.packing import Packing
from ablate.training.budget import Budget
from ablate.training.collate import GroupCollator
from ablate.training.groups import mismatched_partners, presentation_order
from ablate.training.lora import lora_config
from ablate.training.rpo import RPOTrainer
from ablate.training.source import FixedGroups
from ablate.trl_compat.arguments import Optimisation, common_arguments
from ablate.trl_compat.quiet import quiet


class Gradients(TrainerCallback):
    """Keeps the gradient and the loss of the first step and ends the training there."""

    def __init__(self):
        self.values, self.loss, self.trainer = {}, None, None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.loss = self.trainer.step_loss()
        self.values = {
            name: value.grad.clone()
            for name, value in model.named_parameters()
            if value.grad is not None
        }
        control.should_training_stop = True


def first_step(
    model, tokenizer, groups, objective, folder, *, micro=None, checkpointing=False, ref_kl=None,
    reference=None, whole=False, packed=True, tokens=10_000, lora=None,
    keeper=None,
    bf16=False,
):  # fmt: skip
    """Loss and unclipped gradient of one batch of all groups, or the trainer after that step."""
    count = len(groups)
    order = presentation_order(count, count, seed=0)
    optimisation = Optimisation(
        lr=1e-3, schedule="constant", warmup_steps=0, batch_size=count, micro_batch_size=micro,
        weight_decay=0.0, max_grad_norm=None, gradient_checkpointing=checkpointing,
    )  # fmt: skip
    partners = mismatched_partners(order, count) if ref_kl is not None else None
    packing = Packing.of(model.config) if packed else None
    collator = GroupCollator(
        groups, order, tokenizer.pad_token_id, partners, ref_kl, packing=packing
    )
    keeper = keeper or Gradients()
    adapters = None if lora is None else lora_config(lora)
    if adapters is not None:
        # by default one half is zero, and so is the other half's gradient
        adapters.init_lora_weights = False
        torch.manual_seed(0)
    with quiet():
        arguments = common_arguments(
            optimisation, output_dir=str(folder), seed=0, max_steps=1, model=model,
            mixed_bf16=bf16,
        )  # fmt: skip
        trainer = RPOTrainer(
            model, arguments, objective=objective, source=FixedGroups(collator),
            budget=Budget(tokens, micro, found=True),
            num_positions=count, tokenizer=tokenizer, callbacks=[keeper], reference=reference,
            peft_config=adapters,
        )  # fmt: skip
        keeper.trainer = trainer
        trainer.train()
        trainer.release()
    if whole:
        return trainer
    return keeper.loss, keeper.values


def assert_same(left, right, tolerance=1e-4):
    scale = max(float(value.abs().max()) for value in right.values())
    assert scale > 1e-6  # a gradient that is zero everywhere compares nothing
    assert left.keys() == right.keys()
    for name in right:
        assert torch.allclose(left[name], right[name], atol=tolerance * scale), name
