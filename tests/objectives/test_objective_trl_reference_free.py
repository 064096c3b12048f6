"""The losses of TRL's CPO and ORPO trainers, run on a real model, are levels of ours."""

import pytest
import torch
from datasets import Dataset
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl_batches import (
    TRAINING,
    WORDS,
    assert_same_loss_and_gradient,
    preference_rows,
    tiny_model,
    token_logps,
)

from ablate.config.levels import read_level
from ablate.models.tokenizer import build_tokenizer
from ablate.objectives import PromptGroup, make_objective

FREE = {"reference": "none"}
#: arguments of TRL's trainer → our level and the values that are not its defaults
CPO_LOSSES = {
    "cpo": ({"loss_type": "sigmoid"}, "cpo", {"aux": {}}),
    "cpo_smoothed": (
        {"loss_type": "sigmoid", "label_smoothing": 0.2},
        "cpo",
        {"aux": {}, "target": "smoothed", "epsilon": 0.2},
    ),
    "hinge": ({"loss_type": "hinge"}, "hinge", FREE),
    "ipo": ({"loss_type": "ipo"}, "ipo", {**FREE, "score": "mean", "log_z": "ignored"}),
    "simpo": (
        {"loss_type": "simpo", "simpo_gamma": 0.6},
        "simpo",
        {"gamma": 0.6, "gamma_beta_ratio": None},
    ),
    "alphapo": (
        {"loss_type": "alphapo", "alpha": 0.25, "simpo_gamma": 0.6},
        "alphapo",
        {"gamma": 0.6, "shape_alpha": 0.25},
    ),
}


def make_trainer(trainer, config, folder, **arguments):
    tokenizer = build_tokenizer(WORDS)
    return trainer(
        tiny_model(tokenizer, 0),
        args=config(output_dir=str(folder), **TRAINING, **arguments),
        train_dataset=Dataset.from_list(preference_rows()),
        processing_class=tokenizer,
    )


def side(batch, name, *, prompt=False):
    """One side of TRL's batch; with `prompt` every token counts, as ORPO's likelihood has it."""
    seen = batch[f"{name}_attention_mask"]
    answer = batch[f"{name}_labels"] != -100
    return {
        "input_ids": batch[f"{name}_input_ids"],
        "attention_mask": seen,
        "completion_mask": seen.bool() if prompt else answer,
    }


def our_group(model, batch, **options):
    """Log-probs by a forward pass for each side; TRL makes one for both together."""
    sides = [side(batch, name, **options) for name in ("chosen", "rejected")]
    logps = torch.stack([token_logps(model, part).sum(dim=1) for part in sides], dim=1)
    # a first token has nothing before it that would predict it
    lengths = [part["completion_mask"][:, 1:].sum(dim=1) for part in sides]
    return PromptGroup(
        policy_logps=logps,
        rewards=torch.tensor([[1.0, 0.0]]).expand(len(logps), 2),
        lengths=torch.stack(lengths, dim=1),
    )


def first_batch(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    lengths = (batch["chosen_labels"] != -100).sum(dim=1)
    assert len(lengths.unique()) > 2  # else a mean over tokens is one over responses
    return batch


@pytest.mark.parametrize("case", CPO_LOSSES)
def test_preference_term_of_the_cpo_trainer(case, tmp_path):
    arguments, level, overrides = CPO_LOSSES[case]
    trainer = make_trainer(
        CPOTrainer, CPOConfig, tmp_path, beta=0.7, **{"cpo_alpha": 0.0, **arguments}
    )
    batch = first_batch(trainer)
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    ours = make_objective(level, beta=0.7, **overrides)(our_group(trainer.model, batch)).loss
    assert_same_loss_and_gradient(ours, theirs, trainer.model)


def test_cpo_with_the_likelihood_averaged_as_trl_does(tmp_path):
    """TRL divides the likelihood by the batch's tokens, the level by those of each response.

    The first is the level without its auxiliary term, mixed with `sft`.
    """
    trainer = make_trainer(CPOTrainer, CPOConfig, tmp_path, beta=0.3, cpo_alpha=0.8)
    batch = first_batch(trainer)
    group = our_group(trainer.model, batch)
    theirs, metrics = trainer.get_batch_loss_metrics(trainer.model, dict(batch))
    likelihood = read_level("objective", "sft")
    over_batch = make_objective(
        "cpo", beta=0.3, aux={}, mix={"sft": likelihood}, mix_weights={"sft": 0.8}
    )
    output = over_batch(group)
    assert output.metrics["sft/loss"] == pytest.approx(metrics["nll_loss"], rel=2e-5)
    per_response = make_objective("cpo", beta=0.3, aux={"nll_best_mean": 0.8})(group).loss
    expected = (-group.policy_logps / group.lengths)[:, 0].mean() - metrics["nll_loss"]
    assert (per_response - theirs).item() == pytest.approx(0.8 * expected.item(), rel=1e-3)
    assert abs(expected) > 0.01
    assert_same_loss_and_gradient(output.loss, theirs, trainer.model)


def test_orpo_with_the_likelihood_of_prompt_and_response(tmp_path):
    """TRL's likelihood counts the prompt too and is averaged over the batch's tokens.

    The level has the response alone, each with its own mean. The odds ratio is the same.
    """
    trainer = make_trainer(ORPOTrainer, ORPOConfig, tmp_path, beta=0.4)
    batch = first_batch(trainer)
    group = our_group(trainer.model, batch)
    theirs, metrics = trainer.get_batch_loss_metrics(trainer.model, dict(batch))
    odds = make_objective("orpo", coefficient=0.4, aux={})(group).loss
    assert odds.item() == pytest.approx(-0.4 * metrics["log_odds_ratio"], rel=2e-5)
    whole = make_objective("sft")(our_group(trainer.model, batch, prompt=True)).loss
    assert whole.item() == pytest.approx(metrics["nll_loss"], rel=2e-5)
    of_level = make_objective("orpo", coefficient=0.4)(group).loss - odds
    mean = (-group.policy_logps / group.lengths)[:, 0].mean()
    assert of_level.item() == pytest.approx(mean.item(), rel=1e-5)
    assert abs(of_level - whole) > 0.01
    assert_same_loss_and_gradient(odds + whole, theirs, trainer.model)


def test_odds_ratio_gradient_of_the_orpo_trainer(tmp_path):
    """The term alone, on the log-probs of the trainer's own forward pass."""
    trainer = make_trainer(ORPOTrainer, ORPOConfig, tmp_path, beta=0.1)
    batch = first_batch(trainer)
    better, worse, *_ = trainer.concatenated_forward(trainer.model, dict(batch))
    theirs = -trainer.odds_ratio_loss(better, worse)[0].mean()
    ours = make_objective("orpo", aux={})(our_group(trainer.model, batch)).loss
    assert_same_loss_and_gradient(ours, theirs, trainer.model)
