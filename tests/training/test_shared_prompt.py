"""Shared prompts and micro-batches by tokens change no loss and no gradient."""

from dataclasses import replace

import pytest
import torch
from onestep import Gradients, assert_same, first_step

from ablate.config.model import Lora
from ablate.errors import ConfigError, ModelError
from ablate.models.logps import response_token_logps
from ablate.models.packing import Packing
from ablate.objectives import make_objective
from ablate.training.budget import Budget, tokens_for
from ablate.training.policy import train_policy

#: one per way in which a loss reads the policy: responses, order, tokens, whole distributions,
#: Σπ², texts beside the responses, couplings over the batch, memory, importance ratios
OBJECTIVES = [
    ("rpo_bwd", {}), ("dpo", {}), ("simpo", {}), ("dpo", {"score": "ld", "ld_alpha": 0.3}),
    ("tdpo2", {"beta": 0.3}), ("wpo", {}), ("tpo_triple", {}), ("rationale_dpo", {}),
    ("xpo", {"aux": {"logp_sample": 0.1}}), ("bco", {}), ("aot", {}), ("grpo", {}), ("sft", {}),
    ("sparse_po", {}),
]  # fmt: skip


@pytest.fixture
def whole_groups(make_model, make_groups, with_everything, tokenizer):
    """Groups with all that any objective reads, reference log-probs by token among it."""

    def make(count=8, k=2):
        groups = with_everything(make_groups(count, k=k, ragged=k > 2))
        items = [(group.prompt_ids, group.response_ids) for group in groups]
        reference = response_token_logps(make_model(1), tokenizer, items, 10_000)
        old = response_token_logps(make_model(2), tokenizer, items, 10_000)
        return [
            replace(
                group,
                ref_token_logps=rows,
                ref_logps=[sum(row) for row in rows],
                old_token_logps=drawn,
            )
            for group, rows, drawn in zip(groups, reference, old, strict=True)
        ]

    return make


@pytest.mark.parametrize(("name", "changes"), OBJECTIVES, ids=lambda value: str(value)[:12])
def test_every_need_is_met_by_packed_rows(
    name, changes, whole_groups, make_model, tokenizer, tmp_path
):
    """One batch of packed rows, against micro-batches of a row per response."""
    groups, objective = whole_groups(), make_objective(name, **changes)
    pairs = [[-40.0, -41.0]] * len(groups) if objective.needs.mismatched else None
    ways = {}
    for label, options in {
        "packed": {},
        "plain, few tokens": {"packed": False, "tokens": 40},
    }.items():
        ways[label] = first_step(
            make_model(), tokenizer, groups, objective, tmp_path, reference=make_model(1),
            ref_kl=pairs, **options,
        )  # fmt: skip
    (loss, gradient), (other, same) = ways.values()
    assert other == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert_same(same, gradient)


@pytest.mark.parametrize(
    "options",
    [
        {"checkpointing": True},
        {"micro": 2},
        {"lora": Lora(r=2, alpha=4.0, target_modules="all-linear")},
        {"checkpointing": True, "lora": Lora(r=2, alpha=4.0, target_modules="all-linear")},
    ],
    ids=["checkpointing", "accumulation", "adapters", "adapters and checkpointing"],
)
def test_packed_rows_go_with(options, make_model, make_groups, tokenizer, tmp_path):
    groups, objective = make_groups(8, k=4), make_objective("rpo_bwd")
    steps = {
        packed: first_step(
            make_model(), tokenizer, groups, objective, tmp_path, packed=packed, **options
        )
        for packed in (True, False)
    }
    assert steps[True][0] == pytest.approx(steps[False][0], rel=1e-5)
    assert_same(steps[True][1], steps[False][1])


def test_packed_rows_go_with_bfloat16(make_model, make_groups, tokenizer, tmp_path):
    """Autocast over float32 weights: the same within what bfloat16 resolves."""
    groups, objective = make_groups(8, k=4), make_objective("rpo_bwd")
    steps = {
        packed: first_step(
            make_model(), tokenizer, groups, objective, tmp_path, packed=packed, bf16=True
        )
        for packed in (True, False)
    }
    exact = first_step(make_model(), tokenizer, groups, objective, tmp_path)
    assert steps[True][0] == pytest.approx(steps[False][0], rel=0.05)
    assert_same(steps[True][1], steps[False][1], tolerance=0.1)
    assert_same(steps[True][1], exact[1], tolerance=0.1)
    assert steps[True][0] != exact[0], "bfloat16 was in use"


class Full:
    """A device with room for so many tokens in one pass, from some pass on."""

    def __init__(self, model, tokens, spared=0):
        self.tokens, self.spared, self.refused = tokens, spared, 0
        model.model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        self.spared -= 1
        if kwargs["input_ids"].numel() > self.tokens and self.spared < 0:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB.")


@pytest.mark.parametrize("name", ["rpo_bwd", "bco", "kto"])
@pytest.mark.parametrize("spared", [0, 1])
def test_where_memory_runs_out_the_step_is_done_again_by_halves(
    name, spared, make_model, make_groups, tokenizer, tmp_path
):
    """Also where earlier micro-batches of the step have left gradients and state."""
    groups, objective = make_groups(12, k=4, ragged=name != "kto"), make_objective(name)
    pairs = [[-40.0] * len(group.ref_logps) for group in groups]
    options = {"ref_kl": pairs} if objective.needs.mismatched else {}
    loss, gradient = first_step(make_model(), tokenizer, groups, objective, tmp_path, **options)
    model, kept = make_model(), Gradients()
    full = Full(model, 55, spared)
    trainer = first_step(
        model, tokenizer, groups, objective, tmp_path, tokens=100, whole=True, keeper=kept,
        **options,
    )  # fmt: skip
    assert full.refused == trainer.budget.halvings == 1
    assert trainer.budget.state() == {"tokens_per_device": 50, "halvings": 1}
    assert kept.loss == pytest.approx(loss, rel=1e-5)
    assert_same(kept.values, gradient)


def test_tokens_are_halved_until_the_micro_batches_change():
    """131,072 tokens found, 60 in use: seven thousand would be the same pass once more."""
    budget = Budget(131_072, None, found=True)
    assert len(budget.split(range(4), lambda position: (1, 15), packed=True)) == 1
    budget.halve(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB."))
    assert budget.state() == {"tokens_per_device": 32, "halvings": 1}
    assert budget.split(range(4), lambda position: (1, 15), packed=True) == [[0, 1], [2, 3]]


def test_one_prompt_that_does_not_fit_is_told(make_model, make_groups, tokenizer, tmp_path):
    model = make_model()
    Full(model, 1)
    with pytest.raises(ConfigError, match=r"one prompt with its responses.*gradient_checkpointing"):
        first_step(model, tokenizer, make_groups(4), make_objective("dpo"), tmp_path)


def test_other_errors_are_not_taken_for_full_memory(make_model, make_groups, tokenizer, tmp_path):
    model = make_model()

    def fail(module, args):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        first_step(model, tokenizer, make_groups(4), make_objective("dpo"), tmp_path)


def test_micro_batches_keep_to_tokens_and_prompts():
    extents = {0: (1, 30), 1: (1, 50), 2: (2, 10), 3: (1, 90), 4: (1, 5), 5: (1, 5), 6: (1, 5)}
    packed = Budget(100, 2, found=True).split(range(7), extents.get, True)
    assert packed == [[0, 1], [2], [3, 4], [5, 6]]
    # padded to the longest, the first two and a half take 3 x 50
    padded = Budget(100, None, found=True).split(range(7), extents.get, False)
    assert padded == [[0, 1], [2], [3], [4, 5, 6]]


def test_the_budget_is_a_power_of_two_and_falls_with_the_models_size(make_model):
    model = make_model()
    device = torch.device("cpu")
    small = tokens_for(model, device, False, 1)
    assert small & (small - 1) == 0
    model.config.intermediate_size = 2**16
    model.config.num_hidden_layers = 50
    wide = tokens_for(model, device, False, 1)
    assert wide & (wide - 1) == 0
    assert wide < small
    assert tokens_for(model, device, True, 1) > wide, "checkpointing keeps less"


@pytest.mark.parametrize("asked", ["auto", "on", "off"])
def test_the_setting_decides_and_the_result_says_what_was_done(
    asked, make_model, make_groups, make_training, tokenizer, tmp_path
):
    training = make_training(batch_size=4, shared_prompt=asked, tokens_per_device=64)
    result = train_policy(
        make_model(), tokenizer, make_groups(8), make_objective("rpo_bwd"), training, seed=0,
        work_dir=tmp_path,
    )  # fmt: skip
    done = "off" if asked == "off" else "on"
    assert result.computed == {"shared_prompt": done, "tokens_per_device": 64, "halvings": 0}


def test_a_model_that_cannot_is_refused_or_trained_row_by_row(
    make_model, make_groups, make_training, tokenizer, tmp_path, capsys
):
    def deaf_model():
        model = make_model()
        inner = model.model.forward
        model.model.forward = lambda *args, position_ids=None, **kwargs: inner(*args, **kwargs)
        return model

    def train(asked, model, folder):
        return train_policy(
            model, tokenizer, make_groups(8), make_objective("rpo_bwd"),
            make_training(batch_size=4, shared_prompt=asked), seed=0, work_dir=tmp_path / folder,
        )  # fmt: skip

    with pytest.raises(ModelError, match=r"shared_prompt=on.*differ.*shared_prompt=auto or off"):
        train("on", deaf_model(), "refused")
    fallen = train("auto", deaf_model(), "fallen")
    assert "differ" in fallen.computed["shared_prompt"]
    assert "every response gets a row of its own" in capsys.readouterr().err
    off = train("off", make_model(), "off")
    columns = ["loss", "grad_norm", "log_ratio"]
    assert fallen.steps[columns].equals(off.steps[columns])


def test_rows_of_a_micro_batch_are_packed(make_model, make_groups, tokenizer):
    """The collator of a run, on ragged groups: at most 5 % padding."""
    from ablate.training.collate import GroupCollator

    groups = make_groups(64, k=5)
    packing = Packing.of(make_model().config)
    batch = GroupCollator(groups, range(64), 0, packing=packing)([{"index": i} for i in range(64)])
    assert float((batch["tree"] == 0).float().mean()) <= 0.05
    plain = GroupCollator(groups, range(64), 0)([{"index": i} for i in range(64)])
    assert plain["input_ids"].numel() > 1.4 * batch["input_ids"].numel()
