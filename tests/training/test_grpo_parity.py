"""Loss and parameter gradient of the policy gradients: against TRL's real GRPO and RLOO trainers.

TRL draws the responses, scores them and makes advantages, log-probs of the policy that drew them
and of the reference; then the policy moves away, so that ratios are clipped, and both compute.
"""

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from ablate.groups import PromptGroup
from ablate.objectives import make_objective
from ablate.trl_compat.quiet import QuietTrainer, quiet

BETA, K, LONGEST = 0.3, 4, 7
PROMPTS = ["a b", "c", "d e f", "g h a b"]
#: TRL divides a batch by its tokens; the published DAPO and CISPO each prompt by its own
OF_BATCH = {"over_tokens": "sum", "aggregate": "token_mean"}
#: TRL's KL by default, for which the published loss is `use_bias_correction_kl=False`
WEIGHTED = {"beta": BETA, "kl": "in_loss_weighted"}
PUBLISHED = {"use_bias_correction_kl": False}
UNCLIPPED = {"clip": "none", "clip_low": None, "clip_high": None}
#: our level, values that are not its defaults, TRL's loss type, and what else TRL is told
GRPO = {
    "grpo": ("grpo", {"beta": BETA}, "grpo", PUBLISHED),
    "grpo with weighted KL": ("grpo", WEIGHTED, "grpo", {}),
    "grpo without clipping": (
        "grpo", {"beta": BETA, **UNCLIPPED}, "grpo", {"epsilon": 1e6, **PUBLISHED},
    ),
    "grpo without reference": ("grpo", {"beta": 0.0}, "grpo", {"beta": 0.0}),
    "dr_grpo": ("dr_grpo", {"beta": BETA, "constant_length": LONGEST}, "dr_grpo", PUBLISHED),
    "bnpo": ("grpo", {"beta": BETA, **OF_BATCH}, "bnpo", PUBLISHED),
    "dapo": (
        "dapo", {"group_filter": "none", **OF_BATCH}, "dapo", {"beta": 0.0, "epsilon_high": 0.28},
    ),
    "cispo": ("cispo", {"clip_high": 1.1, **OF_BATCH}, "cispo", {"beta": 0.0, "epsilon_high": 1.1}),
    "gspo": (
        "gspo", {"beta": BETA, "clip_low": 0.02, "clip_high": 0.03}, "grpo",
        {"importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.03,
         **PUBLISHED},
    ),
    "gspo with weighted KL": (
        "gspo", {**WEIGHTED, "clip_low": 0.02, "clip_high": 0.02}, "grpo",
        {"importance_sampling_level": "sequence", "epsilon": 0.02},
    ),
    "luspo": (
        "gspo", {"clip_low": 0.02, "clip_high": 0.02, "over_tokens": "sum"}, "luspo",
        {"importance_sampling_level": "sequence", "epsilon": 0.02, "beta": 0.0},
    ),
}  # fmt: skip
#: TRL's way to scale rewards as ours
SCALES = {
    "group": {"advantage_scale": "group_std", "scale_epsilon": 1e-4},
    "batch": {"advantage_scale": "batch_std", "scale_epsilon": 1e-4},
    "none": {"advantage_scale": "none", "scale_epsilon": None},
}


def reward(completion_ids, **others):
    """Depends on the tokens alone; one of the prompts has nothing but ties."""
    scores = [0.4 * len(set(ids)) - 0.05 * sum(ids) + 0.3 * (ids[0] % 3) for ids in completion_ids]
    return [0.5 if place // K == 2 else score for place, score in enumerate(scores)]


class Recorder(QuietTrainer):
    """Keeps what was generated, in the order of the prompts."""

    samples = None

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.samples is None:
            self.samples = {name: value.clone() for name, value in output.items()}
        return output


class RecordedGRPO(Recorder, GRPOTrainer):
    pass


class RecordedRLOO(Recorder, RLOOTrainer):
    pass


@pytest.fixture
def sampled(make_model, tokenizer, tmp_path):
    """A trainer that has drawn and scored responses, and whose policy has then moved on."""

    def make(trainer_class, config_class, **arguments):
        folder = tmp_path / "reference"
        make_model(0).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        with quiet():
            config = config_class(
                output_dir=str(tmp_path / "out"), seed=1, max_steps=1, learning_rate=1e-9,
                per_device_train_batch_size=K * len(PROMPTS), num_generations=K,
                temperature=1.0, max_completion_length=LONGEST, num_iterations=2, use_cpu=True,
                bf16=False, report_to="none", save_strategy="no", disable_tqdm=True,
                gradient_checkpointing=False, **{"beta": BETA, **arguments},
            )  # fmt: skip
            trainer = trainer_class(
                model=str(folder), reward_funcs=reward, args=config, processing_class=tokenizer,
                train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
            )  # fmt: skip
            # the policy has left the reference, which the trainer loaded beside it
            trainer.model.load_state_dict(make_model(1).state_dict())
            trainer.train()
        trainer.model.load_state_dict(moved(make_model).state_dict())
        trainer.model.zero_grad()
        return trainer

    return make


def moved(make_model):
    """The policy some steps after it drew the responses."""
    model = make_model(1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.03 * torch.randn(value.shape, generator=generator)
    return model


def rows_of(samples):
    """(prompt ids, completion ids) per sample, without padding."""
    rows = zip(
        samples["prompt_ids"], samples["prompt_mask"].bool(),
        samples["completion_ids"], samples["completion_mask"].bool(), strict=True,
    )  # fmt: skip
    return [(prompt[left].tolist(), ids[right].tolist()) for prompt, left, ids, right in rows]


def our_group(samples, model, reference, old, plain_logps):
    """Every log-prob by an unpadded forward pass in float64; rewards computed again."""
    rows = rows_of(samples)
    assert all(len({tuple(p) for p, _ in rows[i : i + K]}) == 1 for i in range(0, len(rows), K))

    def grid(network):
        values = [plain_logps(network, *row) for row in rows]
        wide = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
        return wide.view(-1, K, wide.shape[1])

    tokens = grid(model)
    with torch.no_grad():
        others = {"token_ref_logps": grid(reference), "old_token_logps": grid(old)}
    return PromptGroup(
        policy_logps=tokens.sum(dim=2),
        ref_logps=others["token_ref_logps"].sum(dim=2),
        rewards=torch.tensor(reward([ids for _, ids in rows]), dtype=torch.float64).view(-1, K),
        lengths=torch.tensor([len(ids) for _, ids in rows]).view(-1, K),
        token_logps=tokens,
        **others,
    )


def assert_same(trainer, theirs, ours, policy):
    assert ours.loss.item() == pytest.approx(theirs.item(), rel=2e-4, abs=2e-6)
    theirs.backward()
    ours.loss.backward()
    gradient = {name: value.grad for name, value in trainer.model.named_parameters()}
    largest = max(float(value.abs().max()) for value in gradient.values())
    assert largest > 1e-3
    for name, value in policy.named_parameters():
        assert torch.allclose(value.grad, gradient[name], atol=2e-4 * largest), name


@pytest.fixture
def compared(sampled, make_model, plain_logps):
    """(TRL's trainer with its samples, our policy, our group of the same responses)."""

    def make(*classes, **arguments):
        trainer = sampled(*classes, **arguments)
        policy = moved(make_model)
        group = our_group(trainer.samples, policy, make_model(0), make_model(1), plain_logps)
        return trainer, policy, group

    return make


@pytest.mark.parametrize("case", GRPO)
def test_loss_and_gradient_of_the_grpo_trainer(case, compared):
    level, overrides, loss_type, arguments = GRPO[case]
    scale = "none" if loss_type == "dr_grpo" else "group"
    trainer, policy, group = compared(
        RecordedGRPO, GRPOConfig, **{"loss_type": loss_type, "scale_rewards": scale, **arguments}
    )
    # ragged lengths, a tied prompt and a clip that is felt: else the comparison says little
    assert len(group.lengths.unique()) > 2
    assert (group.rewards[2] == 0.5).all()
    ours = make_objective(level, **overrides)(group)
    assert (ours.metrics["clipped"] > 0) == (overrides.get("clip") != "none")
    assert_same(trainer, trainer._compute_loss(trainer.model, trainer.samples), ours, policy)


@pytest.mark.parametrize("scale", SCALES)
def test_every_way_to_scale_advantages(scale, compared):
    trainer, policy, group = compared(
        RecordedGRPO, GRPOConfig, loss_type="grpo", scale_rewards=scale, **PUBLISHED
    )
    objective = make_objective("grpo", beta=BETA, **SCALES[scale])
    assert_same(
        trainer, trainer._compute_loss(trainer.model, trainer.samples), objective(group), policy
    )


@pytest.mark.parametrize("epsilon", [0.2, 1e6])
def test_loss_and_gradient_of_the_rloo_trainer(epsilon, compared):
    trainer, policy, group = compared(
        RecordedRLOO, RLOOConfig, normalize_advantages=False, reward_clip_range=None,
        epsilon=epsilon,
    )  # fmt: skip
    clip = {} if epsilon == 0.2 else UNCLIPPED
    ours = make_objective("rloo", beta=BETA, **clip)(group)
    assert (ours.metrics["clipped"] > 0) == (epsilon == 0.2)
    assert_same(trainer, trainer._compute_loss(trainer.model, trainer.samples), ours, policy)


def test_a_prompt_without_spread_leaves_the_denominator_only_where_it_is_filtered(
    compared, make_model, plain_logps
):
    """DAPO draws others in place of such prompts; here they are left out, which is one factor."""
    *_, group = compared(RecordedGRPO, GRPOConfig, loss_type="dapo")
    kept = make_objective("dapo", group_filter="none")(group)
    filtered = make_objective("dapo")(group)
    assert kept.usable.tolist() == [True] * 4
    assert filtered.usable.tolist() == [True, True, False, True]
    torch.testing.assert_close(3 * filtered.loss, 4 * kept.loss)


def test_what_trl_calls_by_other_names_is_all_there():
    """TRL's losses that are left out, each with the reason."""
    import inspect

    source = inspect.getsource(GRPOTrainer._compute_loss)
    listed = {"grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"}
    found = {word for word in listed if f'"{word}"' in source}
    assert found == listed
    left_out = {"sapo": "a soft gate with temperatures of its own", "vespo": "gamma weights"}
    assert {case[2] for case in GRPO.values()} == listed - left_out.keys()
