"""RPOTrainer: its loss and gradient recomputed without trainer, batching or padding."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from onestep import Gradients, assert_same, first_step
from trl import DPOConfig, DPOTrainer

from ablate.groups import PromptGroup
from ablate.objectives import make_objective
from ablate.training.groups import (
    mismatched_pairs,
    mismatched_partners,
    presentation_order,
)
from ablate.trl_compat.arguments import Optimisation, common_arguments
from ablate.trl_compat.quiet import quiet

NAMES = ("dpo", "ipo", "simpo", "kto", "rpo_bwd", "rpo_fwd", "rpo_sq", "rpo_sqloo")


def by_hand(model, groups, objective, plain_logps, kl=None):
    """Loss and gradient from unpadded forward passes in float64 sums."""
    width = max(len(group.response_ids) for group in groups)

    def grid(rows, fill=0.0):
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])

    logps = torch.stack(
        [
            torch.stack(
                [plain_logps(model, g.prompt_ids, ids).sum() for ids in g.response_ids]
                + [torch.zeros((), dtype=torch.float64)] * (width - len(g.response_ids))
            )
            for g in groups
        ]
    )
    batch = PromptGroup(
        policy_logps=logps,
        ref_logps=grid([g.ref_logps for g in groups]).double(),
        rewards=grid([g.rewards for g in groups]).double(),
        lengths=grid([[len(ids) for ids in g.response_ids] for g in groups], 0),
        mask=grid([[True] * len(g.response_ids) for g in groups], False),
        pairing_key=grid([g.pool_index for g in groups], torch.iinfo(torch.int64).max),
        **(kl or {}),
    )
    loss = objective(batch).loss
    model.zero_grad()
    loss.backward()
    gradient = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return loss.item(), gradient


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("micro", [None, 3])
def test_loss_and_gradient_are_the_objectives(
    name, micro, make_model, make_groups, tokenizer, plain_logps, tmp_path
):
    """Ragged K, ties in one prompt of four, one batch or micro-batches of three."""
    model, groups, objective = make_model(), make_groups(12), make_objective(name)
    expected_loss, expected = by_hand(model, groups, objective, plain_logps)
    loss, gradient = first_step(model, tokenizer, groups, objective, tmp_path, micro=micro)
    assert loss == pytest.approx(expected_loss, rel=1e-4, abs=1e-5)
    assert_same(gradient, expected)


def test_every_objective_has_a_gradient_of_its_own(make_model, make_groups, tokenizer, tmp_path):
    """An objective's name that did not reach the loss would show here."""
    groups = make_groups(8)
    flat = {}
    for name in NAMES:
        _, gradient = first_step(make_model(), tokenizer, groups, make_objective(name), tmp_path)
        whole = torch.cat([gradient[key].flatten() for key in sorted(gradient)])
        flat[name] = whole / whole.norm()
    for first in NAMES:
        for second in NAMES:
            if first < second:
                assert not torch.allclose(flat[first], flat[second], atol=1e-3), (first, second)


def everything_by_hand(model, groups, plain_logps):
    """The fields beside rewards and log-probs as an objective should get them, in float64."""
    width = max(len(group.response_ids) for group in groups)

    def deep(name, longest):
        table = torch.zeros(len(groups), width, longest, dtype=torch.float64)
        for row, group in enumerate(groups):
            for column, values in enumerate(getattr(group, name)):
                table[row, column, : len(values)] = torch.tensor(values)
        return table

    def logps(texts):
        return torch.stack([plain_logps(model, prompt, ids).sum() for prompt, ids in texts])

    previous = torch.zeros(len(groups), width, dtype=torch.float64)
    for row, group in enumerate(groups):
        previous[row, : len(group.prev_logps)] = torch.tensor(group.prev_logps)
    return {
        "prev_logps": previous,
        "win_probs": deep("win_probs", width),
        "extra_rewards": deep("extra_rewards", 1),
        "gold_logps": logps([(g.prompt_ids, g.gold_ids) for g in groups]),
        "gold_lengths": torch.tensor([len(g.gold_ids) for g in groups]),
        "rationale_logps": logps([(g.rationale_prompt_ids, g.rationale_ids) for g in groups]),
        "sample_logps": logps([(g.prompt_ids, g.sample_ids) for g in groups]),
    }


@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tpo_triple", {}),
        ("rationale_dpo", {}),
        ("xpo", {"aux": {"logp_sample": 0.1}}),
        ("inpo", {}),
        ("egpo", {}),
        ("mcts_dpo", {}),
        ("modpo", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_loss_reads_beside_rewards_reaches_it(
    name, changes, micro, make_model, make_groups, with_everything, tokenizer, plain_logps, tmp_path
):
    """Win probabilities, further rewards, the previous policy, gold texts, rationales, samples."""
    model, groups = make_model(), with_everything(make_groups(12))
    objective = make_objective(name, **changes)
    extra = everything_by_hand(model, groups, plain_logps)
    expected_loss, expected = by_hand(model, groups, objective, plain_logps, extra)
    loss, gradient = first_step(model, tokenizer, groups, objective, tmp_path, micro=micro)
    assert loss == pytest.approx(expected_loss, rel=1e-4, abs=1e-5)
    assert_same(gradient, expected)


@pytest.mark.parametrize("micro", [None, 2])
def test_kto_baseline_comes_from_mismatched_pairs_of_the_whole_batch(
    micro, make_model, make_groups, tokenizer, plain_logps, tmp_path
):
    model, groups = make_model(), make_groups(8, ragged=False)
    objective = make_objective("kto")
    order = presentation_order(8, 8, seed=0)
    partners = mismatched_partners(order, 8)
    # a reference that is far less likely, so that the baseline is not clamped at zero
    reference = [[-40.0, -41.0, -42.0]] * 8
    loss, gradient = first_step(
        make_model(), tokenizer, groups, objective, tmp_path, micro=micro, ref_kl=reference
    )
    presented = [groups[place] for place in order]
    with torch.no_grad():
        mismatched = torch.tensor(
            [
                [
                    float(plain_logps(model, prompt, response).sum())
                    for prompt, response in mismatched_pairs(group, groups[partner])
                ]
                for group, partner in zip(presented, partners, strict=True)
            ],
            dtype=torch.float64,
        )
    kl = {"kl_logps": mismatched, "kl_ref_logps": torch.tensor(reference).double()}
    expected_loss, expected = by_hand(model, presented, objective, plain_logps, kl)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert_same(gradient, expected)
    without, _ = by_hand(model, presented, objective, plain_logps)
    assert abs(without - expected_loss) > 1e-3  # the baseline matters here


@pytest.mark.parametrize("micro", [None, 3])
def test_objectives_over_tokens_get_tokens(
    micro, make_model, make_groups, tokenizer, plain_logps, tmp_path
):
    """LD-DPO: tokens beyond the pair's shorter length count by alpha (arXiv 2409.06411)."""
    model, reference = make_model(0), make_model(1)
    groups = [
        replace(
            group,
            ref_token_logps=[
                plain_logps(reference, group.prompt_ids, ids).tolist() for ids in group.response_ids
            ],
        )
        for group in make_groups(6, k=2, ragged=False)
    ]
    objective = make_objective("dpo", score="ld", ld_alpha=0.3)
    loss, gradient = first_step(make_model(), tokenizer, groups, objective, tmp_path, micro=micro)
    losses = []
    for group in groups:
        if group.rewards[0] == group.rewards[1]:
            continue
        best = int(group.rewards[1] > group.rewards[0])
        shared = min(len(ids) for ids in group.response_ids)
        ratios = []
        for ids in group.response_ids:
            weight = torch.ones(len(ids), dtype=torch.float64)
            weight[shared:] = 0.3
            per_token = plain_logps(model, group.prompt_ids, ids) - plain_logps(
                reference, group.prompt_ids, ids
            )
            ratios.append((weight * per_token).sum())
        margin = objective.config.beta * (ratios[best] - ratios[1 - best])
        losses.append(-torch.nn.functional.logsigmoid(margin))
    total = torch.stack(losses).mean()
    total.backward()
    expected = {name: value.grad for name, value in model.named_parameters()}
    assert loss == pytest.approx(total.item(), rel=1e-4)
    assert_same(gradient, expected)


def test_the_state_is_updated_once_per_step_and_carried_on(
    make_model, make_groups, tokenizer, tmp_path, plain_logps
):
    """BCO's δ after one step of micro-batches is the mean over the whole batch."""
    model, groups = make_model(), make_groups(8, k=2, ragged=False)
    objective = make_objective("bco")
    kept = {}
    for micro in (None, 2):
        trainer = first_step(
            make_model(), tokenizer, groups, objective, tmp_path, micro=micro, whole=True
        )
        kept[micro] = trainer.objective_state.state_dict()
    scores = [
        objective.config.beta * (float(plain_logps(model, g.prompt_ids, ids).sum()) - ref)
        for g in groups
        if g.rewards[0] != g.rewards[1]
        for ids, ref in zip(g.response_ids, g.ref_logps, strict=True)
    ]
    for state in kept.values():
        assert state["seen"] == len(scores)
        assert state["delta"] == pytest.approx(sum(scores) / len(scores), rel=1e-4)


def test_token_kl_is_exact_and_carries_its_gradient(make_model, make_groups, tokenizer, tmp_path):
    """TDPO₁ by hand: one unpadded forward pass per response and model."""
    groups = [g for g in make_groups(6, k=2, ragged=False) if g.rewards[0] != g.rewards[1]]
    model, reference = make_model(0), make_model(1)
    objective = make_objective("tdpo1", beta=0.3)
    loss, gradient = first_step(
        make_model(), tokenizer, groups, objective, tmp_path, reference=reference
    )

    def table(network, prompt, ids):
        logits = network(torch.tensor([prompt + ids])).logits[0].double()
        return logits.log_softmax(-1)[len(prompt) - 1 : -1]

    losses = []
    for group in groups:
        best = int(group.rewards[1] > group.rewards[0])
        values = []
        for ids, ref in zip(group.response_ids, group.ref_logps, strict=True):
            policy = table(model, group.prompt_ids, ids)
            fixed = table(reference, group.prompt_ids, ids).detach()
            kl = (fixed.exp() * (fixed - policy)).sum()
            values.append(policy[range(len(ids)), ids].sum() - ref + kl)
        margin = 0.3 * (values[best] - values[1 - best])
        losses.append(-torch.nn.functional.logsigmoid(margin))
    total = torch.stack(losses).mean()
    total.backward()
    expected = {name: value.grad for name, value in model.named_parameters()}
    assert loss == pytest.approx(total.item(), rel=1e-4)
    assert_same(gradient, expected)


def test_wpo_weighs_by_the_policys_own_distribution(make_model, make_groups, tokenizer, tmp_path):
    """w = exp(mean_t [log π - log Σ_v π²]), recomputed from full distributions."""
    groups = [g for g in make_groups(6, k=2, ragged=False) if g.rewards[0] != g.rewards[1]]
    model = make_model()
    loss, _ = first_step(make_model(), tokenizer, groups, make_objective("wpo"), tmp_path)
    expected = []
    for group in groups:
        best = int(group.rewards[1] > group.rewards[0])
        gap, weight = [], 1.0
        for ids, ref in zip(group.response_ids, group.ref_logps, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([group.prompt_ids + ids])).logits[0].double()
            logs = logits.log_softmax(-1)[len(group.prompt_ids) - 1 : -1]
            own = logs[range(len(ids)), ids]
            weight *= float((own - (2 * logs).logsumexp(-1)).mean().exp())
            gap.append(float(own.sum()) - ref)
        margin = torch.tensor(0.1 * (gap[best] - gap[1 - best]))
        expected.append(-weight * float(torch.nn.functional.logsigmoid(margin)))
    assert loss == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_dpo_on_pairs_is_trls_own_dpo(make_model, make_groups, tokenizer, tmp_path):
    """Same data, same frozen reference: same loss and gradient as the real DPOTrainer."""
    groups = [g for g in make_groups(12, k=2, ragged=False) if g.rewards[0] != g.rewards[1]]
    objective = make_objective("dpo")
    loss, gradient = first_step(make_model(), tokenizer, groups, objective, tmp_path)

    model, keeper = make_model(), Gradients()
    columns = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    columns |= {"ref_chosen_logps": [], "ref_rejected_logps": []}
    for group in groups:
        best = int(group.rewards[1] > group.rewards[0])
        columns["prompt_ids"].append(group.prompt_ids)
        columns["chosen_ids"].append(group.response_ids[best])
        columns["rejected_ids"].append(group.response_ids[1 - best])
        columns["ref_chosen_logps"].append(group.ref_logps[best])
        columns["ref_rejected_logps"].append(group.ref_logps[1 - best])

    class Tokenised(DPOTrainer):
        """Only the data's preparation is replaced; loss and loop are TRL's."""

        def _prepare_dataset(self, dataset, *args):
            return dataset

        def _precompute_ref_logps(self, dataset, *args):
            return dataset

        def step_loss(self):
            return float(self._tr_loss)

    arguments = common_arguments(
        Optimisation(
            lr=1e-3, schedule="constant", warmup_steps=0, batch_size=len(groups),
            micro_batch_size=None, weight_decay=0.0, max_grad_norm=None,
        ),
        output_dir=str(tmp_path), seed=0, max_steps=1, model=model, mixed_bf16=False,
    )  # fmt: skip
    config = DPOConfig(
        **arguments, precompute_ref_log_probs=True, beta=objective.config.beta, max_length=None
    )
    with quiet():
        trainer = Tokenised(
            model, args=config, train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer, callbacks=[keeper],
        )  # fmt: skip
        keeper.trainer = trainer
        trainer.train()
    assert loss == pytest.approx(keeper.loss, rel=1e-5)
    assert_same(gradient, keeper.values)


def test_gradient_checkpointing_changes_no_gradient(make_model, make_groups, tokenizer, tmp_path):
    groups, objective = make_groups(6), make_objective("rpo_bwd")
    _, plain = first_step(make_model(), tokenizer, groups, objective, tmp_path)
    _, again = first_step(make_model(), tokenizer, groups, objective, tmp_path, checkpointing=True)
    assert_same(again, plain, tolerance=1e-6)


def test_a_batch_without_anything_to_compare_has_loss_and_gradient_zero(
    make_model, make_groups, tokenizer, tmp_path
):
    groups = [replace(g, rewards=[0.0] * len(g.response_ids)) for g in make_groups(4)]
    loss, gradient = first_step(make_model(), tokenizer, groups, make_objective("dpo"), tmp_path)
    assert loss == 0
    assert all(float(value.abs().max()) == 0 for value in gradient.values())
