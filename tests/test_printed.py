"""Printed numbers: no negative zero, anywhere."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ablate.analysis.caption import number
from ablate.cli.curve import curve_table
from ablate.cli.ls import _row
from ablate.cli.panel import metrics_table
from ablate.printed import fixed
from ablate.store.records import Record

NEGATIVE_ZERO = re.compile(r"-0(\.0+)?(?![.\d])")


@given(st.floats(-1e9, 1e9), st.integers(0, 4), st.booleans())
def test_as_usual_but_for_the_sign_of_nothing(value: float, digits: int, sign: bool) -> None:
    told = fixed(value, digits, sign)
    assert not NEGATIVE_ZERO.fullmatch(told)
    assert float(told.replace(",", "")) == float(f"{value:.{digits}f}")
    assert told.startswith(("+", "-")) == (sign or float(told.replace(",", "")) < 0)


def test_what_is_no_number_stays_so() -> None:
    assert fixed(math.nan, 2) == "nan"


@pytest.mark.parametrize("value", [-1e-9, -0.0, -0.004])
def test_tables_panels_and_curves_have_no_negative_zero(value: float) -> None:
    assert number(value, "kl/test") == "0.00"
    assert number(value, "kl/test", sign=True) == "+0.00"
    names = ("reward_sft", "reward", "win_rate", "kl", "length")
    estimate = {"mean": value / 100, "low": value / 100, "high": value / 100, "n": 9}
    metrics = {name: {"test": estimate} for name in names}
    console = Console(width=120)
    with console.capture() as captured:
        console.print(metrics_table(Record(Path("."), {"metrics": metrics})))
        point = {"step": 0.0, "judge_reward": value / 10, "kl": value, "length": value}
        console.print(curve_table([{"curve": [point]}]))
    assert "0.00" in captured.get()
    assert not re.search(r"-0", captured.get())


def test_the_list_of_runs_has_none() -> None:
    config: dict[str, dict[str, object]] = {
        factor: {"name": "x", "k": 2, "value": 0}
        for factor in ("objective", "num_responses", "reward", "base_model", "dataset",
                       "collection", "seed")
    }  # fmt: skip
    names = ("reward_sft", "reward", "win_rate", "kl")
    metrics = {name: {"test": {"mean": -1e-5}} for name in names}
    data = {"id": "a" * 32, "config": config, "metrics": metrics}
    data |= {"status": "done", "revision": 1}
    row = _row(Record(Path("1"), data))
    assert [row[name] for name in ("judge", "SFT", "win %", "KL")] == ["0.000"] * 2 + [
        "0.0", "0.00",
    ]  # fmt: skip
