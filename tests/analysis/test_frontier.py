"""Arms at equal KL: straight lines through an arm's own runs, never beyond them."""

import numpy as np
import pandas as pd
import pytest

from ablate.analysis.frontier import AT_KL, at_matched_kl
from ablate.errors import DataError


def runs(*rows: tuple[str, int, float, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["name", "seed", "kl/test", "reward/test"])
    frame["row"] = pd.Series([(name,) for name in frame["name"]], dtype=object)
    frame["col"] = pd.Series([()] * len(frame), dtype=object)
    return frame.assign(**{"reward_sft/test": 1.0})


TWO = runs(("a", 0, 4.0, 3.0), ("a", 0, 2.0, 2.0), ("b", 0, 3.0, 4.0))


@pytest.mark.parametrize(
    ("kl", "a", "b"), [(2.0, 2.0, 3.0), (3.0, 2.5, 4.0), (1.0, 1.5, 2.0), (None, 2.5, 4.0)]
)
def test_values_lie_on_the_lines(kl: float | None, a: float, b: float) -> None:
    found, target, short = at_matched_kl(TWO, "test", kl)
    assert target == (kl or 3.0)
    assert short == []
    assert dict(zip(found["name"], found[f"{AT_KL}/test"], strict=True)) == {"a": a, "b": b}


def test_a_curve_is_not_continued() -> None:
    found, _, short = at_matched_kl(TWO, "test", 3.5)
    assert found["name"].tolist() == ["a"]
    assert short == ["b seed 0 (3.00)"]
    with pytest.raises(DataError, match=r"farthest reaches 4\.00"):
        at_matched_kl(TWO, "test", 9.0)
    with pytest.raises(DataError, match="no distance"):
        at_matched_kl(runs(("a", 0, -0.1, 1.0)), "test", None)


def test_two_points_of_one_curve_are_compared_as_equals() -> None:
    """An arm that merely went further along the same curve is no better."""
    curve = lambda kl: 1 + np.sqrt(kl)  # noqa: E731
    near, far = (
        [(name, s, kl, curve(kl)) for s in (0, 1) for kl in points]
        for name, points in (("near", (0.5, 1.0, 1.5)), ("far", (0.5, 1.0, 1.5, 4.0)))
    )
    found, target, _ = at_matched_kl(runs(*near, *far), "test", None)
    assert target == 1.5
    assert found[f"{AT_KL}/test"].nunique() == 1
