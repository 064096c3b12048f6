"""Every pair loss of the installed TRL, run through its trainers, is one of our levels."""

from contextlib import contextmanager

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.trainer.utils import add_fused_lm_head
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

BETA = 0.3
#: TRL's loss type → our level and the values that are not its defaults
LOSSES = {
    "sigmoid": ("dpo", {}),
    "hinge": ("hinge", {}),
    "ipo": ("ipo", {"score": "mean", "log_z": "ignored"}),
    "exo_pair": ("exo", {"epsilon": 0.1}),
    "nca_pair": ("nca", {}),
    "robust": ("rdpo", {"epsilon": 0.1}),
    "bco_pair": ("bco_pair", {}),
    "sppo_hard": ("sppo_hard", {}),
    "aot": ("aot", {"target": "smoothed", "epsilon": 0.1}),
    "aot_unpaired": ("aot_unpaired", {"target": "smoothed", "epsilon": 0.1}),
    "apo_zero": ("apo_zero", {}),
    "apo_down": ("apo_down", {}),
    "discopop": ("discopop", {}),
    "sigmoid_norm": ("ln_dpo", {}),
}
DIVERGENCES = {
    "forward_kl": "f_dpo_forward_kl",
    "js_divergence": "f_dpo_js",
    "alpha_divergence": "f_dpo_alpha",
}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    tokenizer = build_tokenizer(WORDS)
    arguments = DPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        beta=BETA,
        label_smoothing=0.1,
        loss_type=["exo_pair"],  # label smoothing is refused for losses that ignore it
        **TRAINING,
    )
    return DPOTrainer(
        tiny_model(tokenizer, 0),
        ref_model=tiny_model(tokenizer, 1),
        args=arguments,
        train_dataset=Dataset.from_list(preference_rows()),
        processing_class=tokenizer,
    )


def log_sum_sq(model, batch):
    """float[rows]: Σ_t log Σ_v π(v)² over the completion's tokens."""
    with torch.no_grad():
        ids, seen = batch["input_ids"], batch["attention_mask"]
        logits = model(input_ids=ids, attention_mask=seen).logits
    squares = (2 * logits[:, :-1].float().log_softmax(dim=-1)).logsumexp(dim=-1)
    return (squares * batch["completion_mask"][:, 1:]).sum(dim=1)


def our_group(trainer, batch):
    def grid(values):
        return torch.stack(values.chunk(2, dim=0), dim=1)

    policy = grid(token_logps(trainer.model, batch))
    with torch.no_grad():
        reference = grid(token_logps(trainer.ref_model, batch))
    return PromptGroup(
        policy_logps=policy.sum(dim=2),
        ref_logps=reference.sum(dim=2),
        rewards=torch.tensor([[1.0, 0.0]]).expand(len(policy), 2),
        lengths=grid(batch["completion_mask"].sum(dim=1)),
        token_logps=policy,
        token_ref_logps=reference,
        log_sum_sq=grid(log_sum_sq(trainer.model, batch)),
    )


def compare(trainer, level, overrides):
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    objective = make_objective(level, **{"beta": BETA, **overrides})
    ours = objective(our_group(trainer, batch)).loss
    assert_same_loss_and_gradient(ours, theirs, trainer.model)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_loss_and_parameter_gradient_of_every_pair_loss(trainer, monkeypatch, loss_type):
    level, overrides = LOSSES[loss_type]
    monkeypatch.setattr(trainer, "loss_types", [loss_type])
    compare(trainer, level, overrides)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_f_divergences(trainer, monkeypatch, divergence):
    monkeypatch.setattr(trainer, "loss_types", ["sigmoid"])
    monkeypatch.setattr(trainer, "f_divergence_type", divergence)
    compare(trainer, DIVERGENCES[divergence], {})


def test_length_desensitised(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "loss_types", ["sigmoid"])
    monkeypatch.setattr(trainer, "ld_alpha", 0.3)
    compare(trainer, "ld_dpo", {"ld_alpha": 0.3})


def test_a_list_of_losses_with_weights(trainer, monkeypatch):
    """TRL's loss_type list for MPO, likelihood per token of the batch included."""
    monkeypatch.setattr(trainer, "loss_types", ["sigmoid", "bco_pair", "sft"])
    monkeypatch.setattr(trainer, "loss_weights", [0.8, 0.2, 1.0])
    classifier = {**read_level("objective", "bco_pair"), "beta": BETA}
    parts = {"bco_pair": classifier, "sft": read_level("objective", "sft")}
    compare(trainer, "mpo", {"mix": parts})


def test_likelihood_of_the_chosen_responses(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "loss_types", ["sft"])
    compare(trainer, "sft", {"beta": 1.0})


def test_weights_by_the_policys_own_distribution(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "loss_types", ["sigmoid"])
    monkeypatch.setattr(trainer, "use_weighting", True)
    with fused_outputs(trainer.model, ("log_probs", "log_sum_sq_probs", "mean_logits", "is_top1",
                                       "entropy")):  # fmt: skip
        compare(trainer, "wpo", {})


@contextmanager
def fused_outputs(model, names):
    """Within: TRL's head gives these fields, as it would had the trainer been made with them."""
    before = model.__dict__.pop("forward")
    add_fused_lm_head(model, outputs=names)
    try:
        yield
    finally:
        model.__dict__["forward"] = before


def test_no_pair_loss_of_trl_is_left_out(trainer, monkeypatch):
    """TRL lists its losses in the message about an unknown one; all are levels here."""
    monkeypatch.setattr(trainer, "loss_types", ["no_such_loss"])
    batch = next(iter(trainer.get_train_dataloader()))
    with pytest.raises(ValueError, match="Unknown loss type") as caught:
        trainer.compute_loss(trainer.model, dict(batch))
    listed = str(caught.value).split("[")[1].split("]")[0].replace("'", "").split(", ")
    assert set(listed) == {*LOSSES, "sft"}


@pytest.fixture(scope="module", params=[(0, 1), (1, 0)])
def kto_trainer(request, tmp_path_factory):
    """The two policies exchange their places: the mean log-ratio changes its sign."""
    policy, reference = request.param
    tokenizer = build_tokenizer(WORDS)
    rows = [
        {
            "prompt": " ".join(WORDS[row : row + 2]),
            "completion": " " + " ".join(WORDS[row : 2 + 2 * row]),
            "label": row % 2 == 0,
        }
        for row in range(6)
    ]
    arguments = KTOConfig(
        output_dir=str(tmp_path_factory.mktemp("kto")),
        beta=BETA,
        desirable_weight=1.2,
        undesirable_weight=0.7,
        **TRAINING,
    )
    return KTOTrainer(
        tiny_model(tokenizer, policy),
        ref_model=tiny_model(tokenizer, reference),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def test_kto_with_its_mismatched_pairs(kto_trainer):
    policy, reference = kto_trainer.model, kto_trainer.ref_model
    batch = next(iter(kto_trainer.get_train_dataloader()))
    mismatched = {
        name: batch[f"KL_{name}"] for name in ("input_ids", "attention_mask", "completion_mask")
    }
    theirs = kto_trainer.compute_loss(policy, dict(batch))
    better = torch.as_tensor(batch["label"]).bool()

    def pairs(values):
        return torch.stack([values[better], values[~better]], dim=1)

    with torch.no_grad():
        fixed = {
            "ref_logps": pairs(token_logps(reference, batch).sum(dim=1)),
            "kl_logps": token_logps(policy, mismatched).sum(dim=1).view(3, 2),
            "kl_ref_logps": token_logps(reference, mismatched).sum(dim=1).view(3, 2),
        }
    group = PromptGroup(
        policy_logps=pairs(token_logps(policy, batch).sum(dim=1)),
        rewards=torch.tensor([[1.0, 0.0]]).expand(3, 2),
        **fixed,
    )
    objective = make_objective("kto", beta=BETA, desirable_weight=1.2, undesirable_weight=0.7)
    output = objective(group)
    assert output.metrics["z0_mismatched"] == 1
    mean = (fixed["kl_logps"] - fixed["kl_ref_logps"]).mean().item()
    assert output.metrics["z0"] == pytest.approx(max(0.0, BETA * mean), rel=1e-5)
    assert abs(mean) > 0.1
    assert_same_loss_and_gradient(output.loss, theirs, policy)
