"""The batch type: shapes are checked by name, padding and slicing keep the meaning."""

import pytest
import torch

from ablate.errors import DataError
from ablate.groups import PromptGroup


def full() -> PromptGroup:
    return PromptGroup(
        policy_logps=torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]),
        ref_logps=torch.zeros(2, 2),
        rewards=torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        lengths=torch.ones(2, 2, dtype=torch.int64),
        pairing_key=torch.tensor([[0, 1], [1, 0]]),
        kl_logps=torch.zeros(2, 3),
        kl_ref_logps=torch.zeros(2, 3),
        extra_rewards=torch.zeros(2, 2, 4),
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy_logps", torch.zeros(2)),
        ("ref_logps", torch.zeros(2, 3)),
        ("rewards", torch.zeros(2)),
        ("lengths", torch.zeros(1, 2)),
        ("mask", torch.ones(2, 1, dtype=torch.bool)),
        ("mask", torch.ones(2, 2)),
        ("ranks", torch.zeros(2, 2, 1)),
        ("pairing_key", torch.zeros(3, 2)),
        ("kl_logps", torch.zeros(1, 3)),
        ("kl_ref_logps", None),
        ("kl_mask", torch.ones(2, 2, dtype=torch.bool)),
        ("extra_rewards", torch.zeros(2, 3, 4)),
        ("token_logps", torch.zeros(2, 2)),
        ("rewards", torch.tensor([[1.0, float("nan")], [0.0, 0.0]])),
        ("ranks", torch.tensor([[1.0, float("inf")], [0.0, 0.0]])),
    ],
)
def test_a_field_that_does_not_fit_is_named(field, value):
    group = full()
    fields = {name: getattr(group, name) for name in group.__dataclass_fields__}
    with pytest.raises(DataError, match=field):
        PromptGroup(**{**fields, field: value})


def test_rewards_of_absent_responses_may_be_anything():
    nan = float("nan")
    group = PromptGroup(
        policy_logps=torch.zeros(1, 2),
        rewards=torch.tensor([[1.0, nan]]),
        mask=torch.tensor([[True, False]]),
    )
    assert group.order().tolist() == [[1.0, 0.0]]


def test_rows_take_every_field():
    part = full().rows(slice(1, 2))
    assert part.num_prompts == 1
    assert part.rewards.tolist() == [[3.0, 4.0]]
    assert part.kl_logps.shape == (1, 3)
    assert part.extra_rewards.shape == (1, 2, 4)
    assert full().rows(torch.tensor([1, 0])).rewards[0].tolist() == [3.0, 4.0]


def test_padding_marks_responses_absent_and_leaves_mismatched_pairs_alone():
    wide = full().pad_to(4)
    assert wide.policy_logps.shape == (2, 4)
    assert wide.mask.tolist() == [[True, True, False, False]] * 2
    assert wide.extra_rewards.shape == (2, 4, 4)
    assert wide.kl_logps.shape == (2, 3)
    assert wide.pairing_key[:, 2:].min() > 1_000_000
    with pytest.raises(DataError, match="cannot pad 2"):
        full().pad_to(1)


def test_order_prefers_rewards_and_falls_back_on_ranks():
    group = full()
    group.ranks = torch.tensor([[9.0, 8.0], [7.0, 6.0]])
    assert torch.equal(group.order(), group.rewards)
    group.rewards = None
    assert torch.equal(group.order(), group.ranks)
    group.ranks = None
    assert group.order() is None


def test_low_precision_computes_in_float32_and_double_stays():
    assert PromptGroup(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert PromptGroup(torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float64


def test_moving_moves_every_field():
    moved = full().to("meta")
    tensors = [getattr(moved, name) for name in moved.__dataclass_fields__]
    assert {value.device.type for value in tensors if value is not None} == {"meta"}
