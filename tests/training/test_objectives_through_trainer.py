"""Every level reaches the loss: its own gradient direction through the real training stage.

An objective whose name is stored but never applied trains as another one and nobody notices. Here
each level takes one step on the same real batch (K = 4, ragged, ties, a reference unlike the
policy, and whatever else a loss may read), and the gradients, normalised, are compared pair by
pair.
"""

import gc
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from ablate.config.levels import level_names
from ablate.errors import DataError
from ablate.models.logps import response_token_logps
from ablate.objectives import make_objective
from ablate.training.policy import train_policy

LEVELS = level_names("objective")
#: distance of unit vectors under which two gradients are the same, and over which they are not
SAME, DISTINCT = 1e-5, 1e-3
#: levels that agree as they are shipped, each with the reason
AGREE = {
    ("apo_zero", "kto"): "kto's z₀ comes from log-ratios to the initial weights, 0 at step one",
    ("dpo", "tdpo1"): "token KL to the initial weights has no gradient there, at step one",
    ("dpo", "tdpo2"): "token KL to the initial weights has no gradient there, at step one",
    ("tdpo1", "tdpo2"): "token KL to the initial weights has no gradient there, at step one",
}
#: values that make a small term visible in one step
SEEN_AS = {"xpo": {"aux": {"logp_sample": 0.1}}}
#: batches by name: (K, ragged); one prompt of four has nothing but ties, unless it says otherwise
BATCHES = {"ragged": (4, True), "four": (4, False), "pairs": (2, False), "untied pairs": (2, False)}
#: (level, overrides), (level, overrides), batch, reason
AGREE_WHEN = [
    (("dpo", {}), ("rpo_bwd", {"beta": 0.1, "eta": 1e6}), "untied pairs",
     "an infinite target makes D_bwd the hard cross-entropy"),
    (("rpo_sq", {}), ("rpo_sqloo", {}), "pairs", "at K=2 D_sqloo is 2 D_sq"),
    (("dpo", {}), ("dpo_pl", {}), "pairs", "a ranking of two is one comparison"),
    (("infonca", {"beta": 0.01, "eta": 2.0}), ("rpo_bwd", {"beta": 0.01, "eta": 2.0}), "ragged",
     "they differ by the target's entropy, which does not depend on the policy"),
    (("gvpo", {"beta": 0.01}), ("rpo_sqloo", {}), "four",
     "the mean of the others is K/(K-1) times the mean of all: one factor while K is the same"),
    (("rebel", {"beta": 0.1}), ("distill_dpo", {}), "ragged", "the same square, another default β"),
    (("rpo_sq", {"beta": 0.1}), ("distill_dpo", {}), "ragged", "the paper's ½ is only a factor"),
    (("dove", {}), ("dpo", {}), "ragged", "pairs of one prompt are the special case"),
    (("cdpo", {"epsilon": 0.0}), ("dpo", {}), "ragged", "labels that never flip"),
    (("rdpo", {"epsilon": 0.0}), ("dpo", {}), "ragged", "labels that never flip"),
    (("r_dpo", {"length_weight": 0.0}), ("dpo", {}), "ragged", "length costs nothing"),
    (("ld_dpo", {"ld_alpha": 1.0}), ("dpo", {}), "ragged", "no token is discounted"),
    (("dr_dpo", {"aggregate_beta": 1e6}), ("dpo", {}), "ragged",
     "the soft minimum becomes the mean"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def imports_are_no_garbage():
    """Accelerate collects garbage after every training: 0.2 s over what the imports left."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def batch(make_model, make_groups, tokenizer):
    """Groups whose reference log-probs are those of another model, by response and by token."""

    def make(kind="ragged"):
        k, ragged = BATCHES[kind]
        groups = make_groups(12, k=k, ragged=ragged)
        if kind == "untied pairs":
            groups = [group for group in groups if group.rewards[0] != group.rewards[1]]
        items = [(group.prompt_ids, group.response_ids) for group in groups]
        values = response_token_logps(make_model(1), tokenizer, items, 10_000)
        old = response_token_logps(make_model(0), tokenizer, items, 10_000)
        return [
            replace(
                group,
                ref_logps=[sum(row) for row in rows],
                ref_token_logps=rows,
                old_token_logps=[moved(row) for row in before],
            )
            for group, rows, before in zip(groups, values, old, strict=True)
        ]

    def moved(row):
        # the responses are those of a policy of some steps before: ratios inside and outside clips
        return [value + 0.3 * (place % 3 - 1) for place, value in enumerate(row)]

    return make


@pytest.fixture
def direction(make_model, make_training, tokenizer, tmp_path_factory):
    """float64[P]: the gradient of the last of `steps` steps over all groups, normalised."""

    def gradient(objective, groups, micro=None, steps=1):
        model, kept = make_model(0), {}
        for name, value in model.named_parameters():
            value.register_post_accumulate_grad_hook(
                lambda value, name=name: kept.__setitem__(name, value.grad.clone())
            )
        training = make_training(
            batch_size=len(groups), micro_batch_size=micro, max_steps=steps, epochs=steps,
            max_grad_norm=None,
        )  # fmt: skip
        train_policy(
            model, tokenizer, groups, objective, training, seed=0,
            work_dir=tmp_path_factory.mktemp("work"),
        )  # fmt: skip
        whole = torch.cat([kept[name].flatten().double() for name in sorted(kept)])
        assert whole.isfinite().all()
        assert whole.norm() > 0
        return whole / whole.norm()

    return gradient


def joint(groups):
    """The same responses, each to a prompt of its own: those of the next groups in turn."""
    return [
        replace(
            group,
            response_prompt_ids=[
                groups[(place + k) % len(groups)].prompt_ids for k in range(len(group.response_ids))
            ],
        )
        for place, group in enumerate(groups)
    ]


def test_every_level_has_a_direction_of_its_own(batch, direction, with_everything):
    groups = with_everything(batch())
    assert len(LEVELS) > 60
    directions = {
        name: direction(
            make_objective(name, **SEEN_AS.get(name, {})),
            joint(groups) if name == "dove" else groups,
        )
        for name in LEVELS
    }
    wrong = []
    for left, right in combinations(LEVELS, 2):
        distance = float((directions[left] - directions[right]).norm())
        expected = (left, right) in AGREE
        if distance > SAME if expected else distance < DISTINCT:
            wrong.append(f"{left} and {right}: {distance:.2e}")
    assert not wrong, (
        "these pairs agree or differ unexpectedly; if that is right, say why in AGREE: "
        + "; ".join(wrong)
    )


def test_what_an_objective_lacks_is_named(batch, direction):
    """Plain groups serve the levels that need nothing special; the others say what is missing."""
    groups = batch()
    special = ("win_probs", "previous", "extra_rewards", "gold", "rationale", "token_weights",
               "reference_sample")  # fmt: skip
    lacking = [
        name
        for name in LEVELS
        if any(getattr(make_objective(name).needs, need) for need in special)
    ]
    assert {"modpo", "sppo", "inpo", "tpo_triple", "rationale_dpo", "sparse_po", "xpo"} <= {
        *lacking
    }
    for name in lacking:
        with pytest.raises(DataError, match=name):
            direction(make_objective(name), groups)


def test_joint_pairs_are_refused_where_log_z_would_stay(batch, direction):
    with pytest.raises(DataError, match="one prompt"):
        direction(make_objective("dpo"), joint(batch()))


@pytest.mark.parametrize(
    ("left", "right", "kind", "reason"),
    AGREE_WHEN,
    ids=[f"{left[0]}-{right[0]}" for left, right, _, _ in AGREE_WHEN],
)
def test_levels_that_must_agree_do(left, right, kind, reason, batch, direction):
    groups = batch(kind)
    first, second = (
        direction(make_objective(name, **changes), groups) for name, changes in (left, right)
    )
    assert (first - second).norm() < SAME, reason


@pytest.mark.parametrize("name", [name for name in LEVELS if make_objective(name).batch_coupled])
def test_a_coupled_batch_is_whole_however_it_is_cut(name, batch, direction):
    """One micro-batch or four: the same global batch, so the same direction."""
    groups, objective = batch(), make_objective(name)
    whole = direction(objective, groups)
    cut = direction(objective, groups, micro=3)
    assert (whole - cut).norm() < SAME
    # a mean over tokens is the mean over prompts up to a factor of the batch
    if objective.config.aggregate == "log_mean_exp":
        mean = direction(make_objective(name, aggregate="mean", aggregate_beta=None), groups)
        assert (whole - mean).norm() > DISTINCT, "the aggregate slot has not reached the loss"


def test_kto_leaves_apo_zero_once_its_baseline_is_positive(batch, direction):
    """The agreement above is one of the first steps: in this training z₀ first exceeds 0 at 4."""
    groups = batch()
    for steps, agree in ((3, True), (4, False)):
        kto, apo = (
            direction(make_objective(name, beta=1.0), groups, steps=steps)
            for name in ("kto", "apo_zero")
        )
        assert (kto - apo).norm() < SAME if agree else (kto - apo).norm() > DISTINCT
