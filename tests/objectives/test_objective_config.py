"""Objectives that have no meaning are refused before any work, with the reason."""

import subprocess
import sys

import pytest
import torch
import yaml
from objective_groups import LEVELS, change, random_group

from ablate.config import legality
from ablate.config.compose import compose
from ablate.config.levels import conf_dir, level_path, level_summary, read_level
from ablate.config.objective import objective_config, objective_of_slots
from ablate.errors import ConfigError, DataError
from ablate.objectives import Objective, fingerprint, make_objective


@pytest.mark.parametrize(
    ("level", "overrides", "message"),
    [
        ("dpo", {"beta": 0}, "beta=0: .*greater than 0"),
        ("dpo", {"beta": -0.1}, "greater than or equal to 0"),
        ("dpo", {"beta": float("nan")}, r"beta: .*\(got nan\)"),
        ("dpo", {"beta": float("inf")}, r"beta: .*\(got inf\)"),
        ("dpo", {"eta": 2.0}, "eta=2.0 has no meaning with target=hard"),
        ("dpo", {"gamma": 0.5}, "shift=gamma takes exactly one"),
        ("dpo", {"distance": "sq"}, "distance=sq cannot aim at target=hard"),
        ("dpo", {"distance": "fwd"}, "finite only if"),
        ("dpo", {"structure": "categorical"}, "pairing=best_vs_random has no meaning"),
        ("dpo", {"ties": "keep"}, "ties=keep belongs to target=rewards"),
        ("dpo", {"target": "smoothed"}, "target=smoothed needs epsilon"),
        ("dpo", {"target": "unbiased", "epsilon": 0.5}, r"epsilon: .*\(got 0\.5\)"),
        ("dpo", {"log_z": "ignored"}, "declare log_z=cancels"),
        ("dpo", {"pairing": "best_vs_all"}, r"pairing: .*\(got 'best_vs_all'\)"),
        ("ipo", {"score": "mean"}, "declare log_z=ignored"),
        ("simpo", {"gamma": 0.1}, "exactly one of gamma and gamma_beta_ratio"),
        ("simpo", {"log_z": "cancels"}, "declare log_z=ignored"),
        ("kto", {"log_z": "cancels"}, "declare log_z=baseline"),
        ("kto", {"baseline": "none"}, "declare log_z=ignored"),
        ("kto", {"pairing": None}, "structure=pointwise needs pairing"),
        ("rpo_bwd", {"eta": None}, "target=rewards needs eta"),
        ("rpo_bwd", {"eta": 0.0}, r"eta: .*\(got 0\.0\)"),
        ("rpo_bwd", {"ties": "drop"}, "ties=keep belongs to target=rewards"),
        ("rpo_bwd", {"distance": "sq"}, "distance=sq cannot measure structure=categorical"),
        ("rpo_bwd", {"units": "log_ratio"}, "units=log_ratio divides a square"),
        ("rpo_bwd", {"shift": "gamma", "gamma": 1.0}, "structure=categorical has none"),
        ("rpo_sqloo", {"target": "hard", "eta": None, "ties": "drop"}, "no meaning with"),
        ("rpo_sq", {"subtract_entropy": True}, "subtract_entropy=true needs distance=ce"),
        ("aot", {"pairing": "all_pairs"}, "one pair per prompt"),
        ("aot", {"score": "mean", "log_z": "ignored"}, "sorts the sums"),
        ("aot", {"ties": "half"}, "leaves no pair to shift or to halve"),
        ("aot_unpaired", {"log_z": "cancels"}, "declare log_z=ignored"),
        ("exo", {"epsilon": 0.0}, "infinite"),
        ("odpo", {"ties": "half"}, "infinite at a tie"),
        ("dpo_pl", {"ties": "half"}, "use ties=drop"),
        ("modpo", {"extra_weights": [0.6, 0.4]}, "sum to less than 1"),
        ("modpo", {"extra_weights": [-0.1]}, "non-negative"),
        ("rdpo", {"subtract_entropy": True}, "a label that is a probability"),
        ("orpo", {"reference": "fixed"}, "set reference=none"),
        ("f_dpo_js", {"reference": "none"}, "set reference=fixed"),
        ("rpo_sq", {"aux": {"nll_all": 1.0}}, "aux"),
        ("rdpo", {"loss_floor": None}, "loss_floor must be a number"),
        ("dpo", {"loss_floor": -1.0}, "bounded below"),
        ("liu_rpo", {"aux": {"nll_best": -1.0}}, "no lower bound"),
        ("drpo", {"loss_floor": None}, "no lower bound"),
        ("drpo", {"tau": None}, "need tau"),
        ("dpo", {"tau": 1.0}, "tau=1.0 has no meaning"),
        ("dpo", {"mix_weights": {"sft": 1.0}}, "must name the same objectives"),
        ("mpo", {"mix_weights": {"bco_pair": 0.2}}, "must name the same objectives"),
        ("mpo", {"mix_weights": {"bco_pair": 0.2, "sft": 0.0}}, "sft=0.0 must be positive"),
        ("dpo", {"weight": "policy", "structure": "categorical", "pairing": None}, "weighs pairs"),
        ("lipo_lambda", {"ties": "half"}, "gives a tie no weight"),
        ("beta_dpo", {"pairing": "all_pairs"}, "one pair per prompt"),
        (
            "tdpo1",
            {"aggregate": "log_mean_exp", "aggregate_beta": 1.0},
            "cannot weigh what the vocabulary",
        ),
        ("sft", {"score": "mean"}, "aggregate=token_mean"),
        ("dove", {"log_z": "cancels"}, "declare log_z=ignored"),
        ("dpop", {"log_z": "cancels"}, "declare log_z=ignored"),
        ("pro", {"log_z": "cancels"}, "declare log_z=ignored"),
        ("bco", {"log_z": "ignored"}, "declare log_z=baseline"),
        ("sppo", {"ties": "drop"}, "ties=keep belongs to"),
        ("irpo_rank", {"eta": 2.0}, "set eta=1"),
        ("dpa", {"reward_weights": [0.0, 0.0]}, "must differ from 0"),
        ("rationale_dpo", {"rationale_scale": None}, "come together"),
        ("sparse_po", {"reference": "none"}, "set reference=fixed"),
        ("dpo", {"advantage": "loo"}, "advantage=loo has no meaning with structure=pair"),
        ("grpo", {"advantage": None}, "structure=policy_gradient needs advantage"),
        ("grpo", {"scale_epsilon": None}, "needs scale_epsilon"),
        ("grpo", {"clip": "none"}, "clip_low=0.2 has no meaning with clip=none"),
        ("grpo", {"clip_low": 1.5}, "clip_low: .*got 1.5"),
        ("grpo", {"kl": "none"}, "kl=none leaves beta=0.04 without meaning"),
        ("grpo", {"reference": "none"}, "leave reference=fixed"),
        ("grpo", {"score": "mean"}, "leave reference=fixed and score=sum"),
        ("grpo", {"aggregate": "token_mean"}, "over_tokens=sum"),
        ("grpo", {"aggregate": "log_mean_exp", "aggregate_beta": 1.0}, "which an advantage has"),
        ("gspo", {"kl": "in_return"}, "set ratio=token"),
        ("rloo", {"clip": "cispo", "clip_low": None}, "caps the weight of each token"),
        ("rloo", {"log_z": "ignored"}, "declare log_z=cancels"),
        ("dr_grpo", {"constant_length": None}, "needs constant_length"),
        ("dr_grpo", {"target": "hard"}, "no meaning with structure=policy_gradient"),
    ],
)
def test_combinations_without_meaning_are_refused(level, overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_objective(level, **overrides)
    assert f"'{level}'" in str(caught.value)


def test_an_unknown_level_names_the_known_ones_and_the_nearest():
    with pytest.raises(ConfigError) as caught:
        make_objective("simp0")
    message = str(caught.value)
    assert "Did you mean 'simpo'" in message
    assert all(name in message for name in LEVELS)


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no field 'betta'\. Did you mean 'beta'"):
        make_objective("dpo", betta=1.0)


def test_an_incomplete_node_names_what_is_missing():
    values = read_level("objective", "dpo")
    del values["beta"]
    with pytest.raises(ConfigError, match="beta: missing"):
        objective_config({**values, "temperature": 1.0})
    with pytest.raises(ConfigError, match="temperature: there is no such setting"):
        objective_config({**values, "temperature": 1.0})


@pytest.mark.parametrize(
    ("level", "field", "message"),
    [
        ("dpo", "ref_logps", "ref_logps"),
        ("simpo", "lengths", "lengths"),
        ("rpo_bwd", "rewards", "order of the responses is not enough"),
        ("kto", "rewards", "rewards or ranks"),
        ("odpo", "rewards", "order of the responses is not enough"),
        ("modpo", "extra_rewards", "extra_rewards"),
        ("ld_dpo", "token_logps", "token_logps"),
        ("ld_dpo", "token_ref_logps", "token_ref_logps"),
        ("r_dpo", "lengths", "lengths"),
        ("wpo", "log_sum_sq", "log_sum_sq"),
        ("tdpo2", "token_kl", "token_kl"),
        ("sparse_po", "token_weights", "token_weights"),
        ("sparse_po", "token_kl_weights", "token_kl_weights"),
        ("inpo", "prev_logps", "prev_logps"),
        ("tpo_triple", "gold_logps", "gold_logps"),
        ("tpo_triple", "gold_lengths", "gold_lengths"),
        ("rationale_dpo", "rationale_logps", "rationale_logps"),
        ("distill_mean", "extra_rewards", "extra_rewards"),
        ("mpo", "ref_logps", "ref_logps"),
    ],
)
def test_a_group_that_lacks_something_is_refused_by_name(level, field, message):
    with pytest.raises(DataError, match=message):
        make_objective(level)(change(random_group(), win_probs=None, **{field: None}))


def test_the_number_of_further_rewards_must_fit():
    with pytest.raises(DataError, match="2 extra_weights for 1"):
        make_objective("modpo", extra_weights=[0.1, 0.2])(random_group())
    with pytest.raises(DataError, match="3 reward_weights for 1 extra_rewards and the reward"):
        make_objective("dpa", reward_weights=[0.1, 0.2, 0.3])(random_group())


def test_ranks_do_not_stand_in_for_scores():
    group = change(random_group(), rewards=None, ranks=torch.rand(4, 4))
    make_objective("dpo")(group)
    with pytest.raises(DataError, match="rewards"):
        make_objective("rpo_sq")(group)


def test_simpo_reads_no_reference():
    group = random_group()
    objective = make_objective("simpo")
    assert not objective.needs.reference
    bare = change(group, ref_logps=None)
    assert torch.equal(objective(bare).per_prompt, objective(group).per_prompt)


@pytest.mark.parametrize("name", LEVELS)
def test_level_files_are_short_commented_and_complete(name):
    config = make_objective(name).config
    assert config.name == name
    assert config.formula
    assert config.rpo_reading
    assert level_summary("objective", name)
    lines = level_path("objective", name).read_text().splitlines()
    content = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    slots = [
        line
        for line in content
        if line.split(":")[0]
        not in ("defaults", "name", "title", "arxiv", "formula", "rpo_reading", "checked")
    ]
    assert 1 <= len(slots) <= 12
    beta = next(line for line in content if line.startswith("beta:"))
    assert "#" in beta, "a default says where it comes from"


def test_rewording_a_level_changes_no_identity():
    values = read_level("objective", "rpo_bwd")
    identity = objective_config(values).identity()
    assert objective_config({**values, "formula": "other words"}).identity() == identity
    assert objective_config({**values, "eta": 2.0}).identity() != identity


@pytest.mark.parametrize("name", LEVELS)
def test_losses_without_a_lower_bound_say_so(name):
    objective = make_objective(name)
    steps = torch.tensor([[-1e4, 0.0], [1e4, 0.0], [0.0, 1e4], [1e4, 1e4]]).double()
    policy, reference = steps.clamp(max=0) - 1, -steps.clamp(min=0) - 1
    group = change(
        random_group(0, 4, 2),
        policy_logps=policy,
        ref_logps=reference,
        lengths=torch.full((4, 2), 12),
        token_logps=policy[..., None].expand(4, 2, 12) / 12,
        token_ref_logps=reference[..., None].expand(4, 2, 12) / 12,
        sample_logps=torch.full((4,), -1e8).double(),
    )
    if objective.needs.behaviour:
        # a KL in the reward belongs to the data, on which the bound depends
        old = group.old_token_logps
        group = change(group, ref_logps=old.sum(dim=2), token_ref_logps=old)
    lowest = min(
        objective(change(group, rewards=torch.tensor([order] * 4))).per_prompt.min().item()
        for order in ([1.0, 0.0], [0.0, 1.0])
    )
    assert objective.config.unbounded_below == (lowest < -10)


def test_needs_are_known_without_torch():
    code = (
        "import sys\n"
        "from ablate.config.levels import read_level\n"
        "from ablate.config.objective import objective_config\n"
        "print(objective_config(read_level('objective', 'kto')).needs)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mismatched=True" in done.stdout


def test_a_level_in_a_folder_of_the_user_works_without_touching_the_package(tmp_path):
    folder = tmp_path / "objective"
    folder.mkdir()
    (folder / "wide_dpo.yaml").write_text(
        "# DPO against the worst response.\n"
        "defaults: [dpo, _self_]\n"
        "name: wide_dpo\n"
        "pairing: best_vs_worst\n"
    )
    group = random_group()
    mine = make_objective("wide_dpo", search=[tmp_path], beta=0.2)
    same = make_objective("dpo", beta=0.2, pairing="best_vs_worst")
    assert torch.equal(mine(group).per_prompt, same(group).per_prompt)
    assert mine.name == "wide_dpo"


UNPROVIDED_LEVELS = {
    "sparse_po": "a weight for every token",
    "dove": "prompts of their own",
}
#: what the default levels do not give, and a level that does
GIVEN_BY = {
    "modpo": ("further rewards", "reward=vector"),
    "dpa": ("further rewards", "reward=vector"),
    "distill_mean": ("further rewards", "reward=ensemble"),
    "sppo": ("beats another", "reward=pairwise"),
    "gpo": ("beats another", "reward=gpm"),
    "egpo": ("beats another", "reward=pairwise_bt"),
    "mcts_dpo": ("beats another", "reward=pairwise"),
    "inpo": ("the round before", "collection=iterative"),
}


#: what comes with a column of a file, and with no embedded world
COLUMN_LEVELS = {"tpo_triple": "gold", "rationale_dpo": "rationale"}


@pytest.mark.parametrize(("name", "column"), COLUMN_LEVELS.items())
def test_what_a_column_of_a_file_gives_is_refused_without_a_file(name, column):
    with pytest.raises(ConfigError, match=f"dataset=lists does not.*column `{column}`"):
        legality.check(compose([f"objective={name}"]))
    legality.check(compose([f"objective={name}", "dataset=local", "dataset.path=x.jsonl"]))


@pytest.mark.parametrize("name", sorted(set(LEVELS) - set(COLUMN_LEVELS)))
def test_a_run_is_refused_exactly_where_the_pipeline_lacks_something(name):
    # a policy gradient wants fair draws of the pool, which the other objectives are content with
    run = compose([f"objective={name}", "num_responses.select=first"])
    if name not in UNPROVIDED_LEVELS and name not in GIVEN_BY:
        legality.check(run)
        return
    with pytest.raises(ConfigError) as caught:
        legality.check(run)
    (line,) = str(caught.value).splitlines()
    assert f"objective={name} needs" in line
    if name in UNPROVIDED_LEVELS:
        assert UNPROVIDED_LEVELS[name] in line
        assert "in Python" in line
        return
    what, level = GIVEN_BY[name]
    assert what in line
    assert level.split("=")[0] + "=" in line
    legality.check(compose([f"objective={name}", level]))


@pytest.mark.parametrize("name", LEVELS)
def test_an_objective_comes_back_from_what_identifies_it(name):
    config = objective_config(read_level("objective", name))
    again = objective_of_slots(config.identity(), name)
    assert again.identity() == config.identity()
    assert again.needs == config.needs


def test_weights_and_parts_of_a_mixture_are_typed_like_any_setting():
    words = ["objective=mpo", "objective.mix_weights.sft=0.5", "objective.mix.bco_pair.beta=0.3"]
    run = compose(words)
    assert run.objective.mix_weights == {"bco_pair": 0.2, "sft": 0.5}
    assert run.objective.mix["bco_pair"].beta == 0.3
    plain = compose(["objective=mpo"]).objective
    assert plain.identity() != run.objective.identity()
    assert fingerprint(plain.model_dump()) != fingerprint(run.objective.model_dump())


def test_any_objective_takes_a_second_one_on_the_command_line():
    words = ["+objective@objective.mix.likelihood=sft", "+objective.mix_weights.likelihood=0.1"]
    run = compose(["objective=rpo_bwd", *words])
    legality.check(run)
    group = random_group(0, 6, 3)
    both = Objective(run.objective)(group)
    expected = make_objective("rpo_bwd")(group).loss + 0.1 * make_objective("sft")(group).loss
    torch.testing.assert_close(both.loss, expected)
    assert both.metrics["likelihood/loss"] == pytest.approx(
        make_objective("sft")(group).loss.item()
    )


def test_what_is_not_offered_is_listed_with_a_reason_and_is_no_level():
    file = conf_dir().parent / "objectives" / "not_offered.yaml"
    entries = yaml.safe_load(file.read_text())
    assert {entry["name"] for entry in entries}.isdisjoint(LEVELS)
    for entry in entries:
        assert set(entry) == {"name", "arxiv", "reason"}
        assert len(entry["reason"]) > 10
