"""Identities: equal for equal data however it is written, different otherwise, plain data only."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from ablate.config.base import Node
from ablate.config.compose import compose
from ablate.config.identity import canonical, digest
from ablate.config.objective import objective_of_slots
from ablate.config.selection import NumResponses

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
plain = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), plain, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert digest(backwards) == digest(value)


@given(plain)
def test_the_canonical_form_is_json_of_the_same_data(value: Any) -> None:
    assert json.loads(canonical(value)) == value


@given(plain, plain)
def test_different_canonical_forms_have_different_digests(one: Any, two: Any) -> None:
    assert (digest(one) == digest(two)) == (canonical(one) == canonical(two))


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, {2, 3}]}, r"\$\.a\[1\]"),
        ({"a": Path("x")}, r"\$\.a"),
        ({"a": {1: 2}}, "key 1"),
        ({"a": math.nan}, r"\$\.a"),
        ([math.inf], r"\$\[0\]"),
        ({"a": (1, 2)}, r"\$\.a"),
    ],
)
def test_what_is_not_plain_data_is_refused_by_its_path(value: Any, where: str) -> None:
    with pytest.raises(TypeError, match=where):
        digest(value)


class Old(Node):
    lr: float


class New(Node):
    lr: float
    warmup: int = Field(default=0, json_schema_extra={"neutral": 0})


def test_a_later_field_at_its_neutral_value_keeps_old_identities() -> None:
    old = digest(Old(lr=0.1).identity())
    assert digest(New(lr=0.1).identity()) == old
    assert digest(New(lr=0.1, warmup=5).identity()) != old


def test_an_integer_where_a_float_belongs_is_the_same_setting() -> None:
    assert digest(Old(lr=1).identity()) == digest(Old(lr=1.0).identity())


def test_settings_that_a_selection_rule_does_not_read_are_no_part_of_an_identity() -> None:
    plain = {"k": 4, "select": "paper", "rso_beta": 0.5, "min_gap": 0.0}
    # what stores hold that are older than the two settings
    assert NumResponses(**plain).identity() == {"k": 4, "select": "paper"}
    assert NumResponses(**{**plain, "rso_beta": 2.0}).identity() == {"k": 4, "select": "paper"}
    sampled = NumResponses(**{**plain, "select": "rso", "rso_beta": 2.0}).identity()
    assert sampled == {"k": 4, "select": "rso", "rso_beta": 2.0}
    assert NumResponses(**{**plain, "min_gap": 0.5}).identity()["min_gap"] == 0.5


@pytest.mark.parametrize("level", ["dpo", "rpo_bwd", "mpo", "kto"])
def test_an_objective_is_restored_from_what_its_identity_left(level: str) -> None:
    """A stage rebuilds its objective from its parameters, where neutral settings are left out."""
    objective = compose([f"objective={level}"]).objective
    restored = objective_of_slots(objective.identity(), "again")
    same = {"name", "title", "arxiv", "formula", "rpo_reading", "checked", "mix"}
    assert restored.model_dump(exclude=same) == objective.model_dump(exclude=same)
    for label, part in objective.mix.items():
        assert restored.mix[label].model_dump(exclude=same) == part.model_dump(exclude=same)
