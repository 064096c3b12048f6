"""Micro-batches add up to the batch, and fingerprints tell losses apart."""

import subprocess
import sys

import pytest
import torch
from objective_groups import (
    LEVELS,
    change,
    every_level,
    leaf_name,
    random_group,
    values_and_gradient,
)

from ablate.config.levels import read_level
from ablate.errors import DataError
from ablate.objectives import fingerprint, make_objective, response_scales


@pytest.mark.parametrize("name", every_level(lambda o: not o.batch_coupled))
def test_per_prompt_over_the_global_count_is_the_whole_batch(name):
    objective = make_objective(name)
    group = random_group(0, 7, 4, ragged=True, ties=True)
    group.mask[1, 1:] = False
    whole = objective(group)
    _, expected = values_and_gradient(objective, group)
    field = leaf_name(objective)
    leaf = getattr(group, field).clone().requires_grad_(True)
    count = objective.usable(group).sum()
    assert 0 < count <= 7 - (objective.needs.min_responses > 1)
    total = 0.0
    for rows in (slice(0, 2), slice(2, 3), slice(3, 7)):
        part = change(group, **{field: leaf}).rows(rows)
        loss = objective(part).per_prompt.sum() / count
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.loss.item(), rel=1e-12)
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-12, atol=1e-15)


def weighs_tokens(objective):
    return objective.needs.tokens or objective.needs.token_kl


@pytest.mark.parametrize("name", every_level(lambda o: not weighs_tokens(o)))
def test_two_passes_give_the_gradient_of_the_whole_batch(name):
    """Σ sg(∂loss/∂log π)·log π, summed over micro-batches, batch-coupled objectives included."""
    objective = make_objective(name)
    group = random_group(1, 6, 3, ragged=True, scale=6)
    group.kl_logps = group.kl_ref_logps = None
    weights = torch.randn(6, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theta = torch.tensor([1.0, -0.5], dtype=torch.float64, requires_grad=True)

    def logps(rows):
        return group.policy_logps[rows] + weights[rows] @ theta

    objective(change(group, policy_logps=logps(slice(None)))).loss.backward()
    expected = theta.grad.clone()
    theta.grad = None
    with torch.no_grad():
        whole = change(group, policy_logps=logps(slice(None)))
    scales = response_scales(objective, whole)
    for rows in (slice(0, 4), slice(4, 6)):
        (scales[rows] * logps(rows)).sum().backward()
    torch.testing.assert_close(theta.grad, expected, rtol=1e-12, atol=1e-15)


def test_micro_batches_alone_are_wrong_for_a_batch_coupled_objective():
    """Why `batch_coupled` is declared: z₀ of a part is not that of the batch."""
    objective = make_objective("kto", beta=0.5)
    assert objective.batch_coupled
    group = random_group(2, 8, 2, scale=5)
    group.kl_logps = group.kl_ref_logps = None
    parts = torch.cat([objective(group.rows(slice(i, i + 2))).per_prompt for i in range(0, 8, 2)])
    assert (parts - objective(group).per_prompt).abs().max() > 1e-3


def test_no_scale_per_response_where_tokens_are_weighed():
    for name in every_level(weighs_tokens):
        with pytest.raises(DataError, match="tokens"):
            response_scales(make_objective(name), random_group())


def test_fingerprints_are_distinct_and_follow_the_loss():
    prints = {name: fingerprint(read_level("objective", name)) for name in LEVELS}
    # joint pairs are a matter of what stands in the groups, not of the loss on them
    assert prints.pop("dove") == prints["dpo"]
    assert len(set(prints.values())) == len(prints)
    dpo = read_level("objective", "dpo")
    assert fingerprint({**dpo, "title": "another title"}) == prints["dpo"]
    assert fingerprint({**dpo, "beta": 0.1000001}) != prints["dpo"]
    assert fingerprint({**dpo, "ties": "half"}) != prints["dpo"]
    assert fingerprint({**dpo, "pairing": "best_vs_worst"}) != prints["dpo"]


def test_fingerprint_is_the_same_in_another_process_with_other_threads_and_seed():
    code = (
        "import torch; torch.set_num_threads(2); torch.manual_seed(5); torch.rand(3)\n"
        "torch.set_default_dtype(torch.float64)\n"
        "from ablate.config.levels import read_level\n"
        "from ablate.objectives import fingerprint\n"
        "print(*(fingerprint(read_level('objective', n)) for n in ('kto', 'rpo_bwd', 'simpo')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [fingerprint(read_level("objective", name)) for name in ("kto", "rpo_bwd", "simpo")]
    assert done.stdout.split() == here
