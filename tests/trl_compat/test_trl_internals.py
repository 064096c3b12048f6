"""The TRL that is installed still has the insides that are overridden here."""

import inspect

import pytest
from trl import DPOTrainer, RewardTrainer, SFTTrainer
from trl.trainer import dpo_trainer, reward_trainer, utils

from ablate.trl_compat import version as version_module
from ablate.trl_compat.dpo import OVERRIDDEN, SOURCE_MARKERS, GroupTrainer
from ablate.trl_compat.positions import PositionsTrainer
from ablate.trl_compat.version import SUPPORTED_TRL, TRLVersionError, check_version


def test_the_installed_trl_is_the_supported_one():
    check_version()


def test_another_trl_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(version_module, "version", lambda name: "1.17.0")
    with pytest.raises(TRLVersionError, match=rf"1\.17\.0.*trl~={SUPPORTED_TRL}\.0"):
        check_version()


@pytest.mark.parametrize("name", sorted(OVERRIDDEN))
def test_overridden_methods_keep_their_signature(name):
    assert tuple(inspect.signature(getattr(DPOTrainer, name)).parameters) == OVERRIDDEN[name]


@pytest.mark.parametrize("marker", SOURCE_MARKERS)
def test_lines_that_are_relied_on_are_still_there(marker):
    assert marker in inspect.getsource(DPOTrainer)


def test_every_private_method_that_is_overridden_is_listed():
    own = {
        name
        for part in (GroupTrainer, PositionsTrainer)
        for name, value in vars(part).items()
        if inspect.isfunction(value) and hasattr(DPOTrainer, name) and name != "__init__"
    }
    assert own - set(OVERRIDDEN) == {"floating_point_ops"}


def test_fused_head_keeps_its_interface():
    assert tuple(inspect.signature(utils.add_fused_lm_head).parameters) == (
        "model",
        "temperature",
        "cast_lm_head_to_fp32",
        "outputs",
    )
    assert "model.forward = types.MethodType(_fused_forward, model)" in inspect.getsource(
        utils.add_fused_lm_head
    )
    assert callable(dpo_trainer.hash_module)
    assert callable(reward_trainer.suppress_seqcls_warning)


@pytest.mark.parametrize("trainer", [SFTTrainer, RewardTrainer])
def test_the_other_trainers_keep_what_is_overridden(trainer):
    loss = inspect.signature(trainer.compute_loss).parameters
    assert tuple(loss) == ("self", "model", "inputs", "return_outputs", "num_items_in_batch")
    assert tuple(inspect.signature(trainer._prepare_dataset).parameters)[1] == "dataset"
    assert "skip_prepare_dataset" in inspect.getsource(SFTTrainer)
    assert hasattr(trainer, "_send_telemetry")
    assert hasattr(trainer, "create_model_card")


def test_reward_trainer_still_looks_at_the_number_of_outputs_only() -> None:
    """`TokenRewardTrainer` shows it one output for the time of its construction."""
    source = inspect.getsource(RewardTrainer.__init__)
    assert 'getattr(model.config, "num_labels", None) != 1' in source
