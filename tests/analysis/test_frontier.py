"""Arms at equal KL: what an arm's own runs and recorded curves say, never beyond them."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.analysis import AblationTable, Question, build
from ablate.analysis.frontier import AT_KL, BETWEEN, CHORD, OWN, READ, RECORDED, at_matched_kl
from ablate.analysis.report_parts import Maker
from ablate.errors import DataError
from ablate.results import load_study
from madestore import answers, put

NO_CURVES = pd.DataFrame({"id": [], "kl": [], "judge_reward": []})


def runs(*rows: tuple[str, int, float, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["name", "seed", "kl/test", "reward/test"])
    frame["id"] = [f"{name}{seed}" for name, seed in zip(frame["name"], frame["seed"], strict=True)]
    frame["row"] = pd.Series([(name,) for name in frame["name"]], dtype=object)
    frame["col"] = pd.Series([()] * len(frame), dtype=object)
    return frame.assign(**{"reward_sft/test": 1.0})


def root_law(kl: float) -> float:
    return 1 + math.sqrt(kl)


def other_law(kl: float) -> float:
    return 1 + math.log1p(3 * kl) - 0.2 * kl


TWO = runs(("a", 0, 4.0, 3.0), ("a", 0, 2.25, 2.0), ("b", 0, 3.0, 4.0))


@pytest.mark.parametrize(
    ("kl", "a", "b", "how"),
    [
        (2.25, 2.0, 1 + 3 * math.sqrt(0.75), {OWN, CHORD}),
        # the root of 3.0625 is halfway from those of 2.25 and 4
        (3.0, 2 + 2 * (math.sqrt(3) - 1.5), 4.0, {BETWEEN, OWN}),
        (1.0, 1 + 1 / 1.5, 1 + 3 / math.sqrt(3), {CHORD}),
        (None, 2 + 2 * (math.sqrt(3) - 1.5), 4.0, {BETWEEN, OWN}),
    ],
)
def test_values_lie_on_lines_over_the_root_of_kl(
    kl: float | None, a: float, b: float, how: set[str]
) -> None:
    made = at_matched_kl(TWO, "test", kl, NO_CURVES)
    assert made.kl == (kl or 3.0)
    assert made.short == []
    found = made.frame.set_index("name")[f"{AT_KL}/test"]
    assert found.to_dict() == pytest.approx({"a": a, "b": b})
    assert set(made.frame[READ]) == how


def test_a_curve_is_not_continued() -> None:
    made = at_matched_kl(TWO, "test", 3.5, NO_CURVES)
    assert made.frame["name"].tolist() == ["a"]
    assert made.short == ["b seed 0 (3.00)"]
    with pytest.raises(DataError, match=r"farthest reaches 4\.00"):
        at_matched_kl(TWO, "test", 9.0, NO_CURVES)
    with pytest.raises(DataError, match="no distance"):
        at_matched_kl(runs(("a", 0, -0.1, 1.0)), "test", None, NO_CURVES)


def test_an_arm_that_went_further_on_the_same_curve_is_no_worse() -> None:
    """One run per seed, and runs with different points in between."""
    for law, error in ((root_law, 1e-9), (other_law, 0.16)):
        near, far, several = (
            [(name, s, kl, law(kl)) for s in (0, 1) for kl in points]
            for name, points in (("near", (1.0,)), ("far", (2.5,)), ("several", (0.4, 1.6, 2.2)))
        )
        made = at_matched_kl(runs(*near, *far, *several), "test", None, NO_CURVES)
        assert made.kl == 1.0
        values = made.frame.groupby("name")[f"{AT_KL}/test"].mean()
        # a straight line in KL would put the arm that went far 0.37 and 0.53 too low
        assert values.to_dict() == pytest.approx(dict.fromkeys(values.index, law(1.0)), abs=error)


def recorded(law: Callable[[float], float], *, to: float, shift: float = 0.0) -> pd.DataFrame:
    kl = np.linspace(0, to, 30)
    return pd.DataFrame({"step": range(30), "kl": kl, "judge_reward": [law(k) + shift for k in kl]})


@pytest.mark.parametrize("law", [root_law, other_law])
def test_a_recorded_curve_is_followed(law: Callable[[float], float]) -> None:
    """Other prompts shift it and change its slope; the run's own values hold the ends."""
    frame = runs(("near", 0, 1.0, law(1.0)), ("far", 0, 2.5, law(2.5)))
    curve = recorded(lambda kl: law(kl) + 0.1 * math.sqrt(kl), to=2.6, shift=0.4)
    # on its way the policy came back once, and was worse there
    back = pd.DataFrame({"step": [30], "kl": [1.0], "judge_reward": [-5.0]})
    curve = pd.concat([curve, back]).assign(id="far0")
    made = at_matched_kl(frame, "test", None, curve)
    values = made.frame.set_index("name")
    assert values.loc["far", f"{AT_KL}/test"] == pytest.approx(law(1.0), abs=0.01)
    assert values[READ].to_dict() == {"near": OWN, "far": RECORDED}
    # a curve whose first point lies beyond tells nothing of what lies before it
    late = curve[(curve["kl"] == 0) | (curve["kl"] > 1.5)]
    assert at_matched_kl(frame, "test", None, late).frame.set_index("name").loc["far", READ] == (
        CHORD
    )


def store(root: Path, *, curves: bool) -> AblationTable:
    """Two arms on one curve; ipo goes four times as far."""
    for seed in range(3):
        for name, kl in (("dpo", 1.0), ("ipo", 4.0)):
            made = answers(5 + math.sqrt(kl), seed + 10 * (name == "ipo"), 60, spread=0.1)
            made["kl"] = kl
            curve = recorded(lambda k: 5 + math.sqrt(k), to=4.0) if curves else None
            put(root, made, objective=name, seed=seed, curve=curve)
    study = load_study(root)
    question = Question(rows=("objective",), baseline="dpo", matched_kl="max")
    return build(study.frame, study.lacking, question)


def test_what_rests_on_a_law_alone_is_not_tested(tmp_path: Path) -> None:
    made = store(tmp_path / "store", curves=False)
    assert made.comparisons.empty
    assert not any(entry.best for entry in made.entries.values())
    far = made.entries[("ipo",), (), f"{AT_KL}/test"]
    assert far.comparison is None
    assert far.half > 0
    assert "not tested, and no cell in bold" in "\n".join(made.notes)
    assert "assumed" in next(n for n in made.notes if n.endswith(": ipo"))
    study = load_study(tmp_path / "store")
    plain = build(study.frame, study.lacking, Question(rows=("objective",), baseline="dpo"))
    section = "".join(Maker(study.frame, study.lacking, plain).frontier("test"))
    assert "At equal KL" in section
    assert "not tested, and no cell in bold" in section


def test_what_runs_recorded_is_tested(tmp_path: Path) -> None:
    made = store(tmp_path / "store", curves=True)
    assert len(made.comparisons) == 1
    assert abs(made.comparisons["difference"].iloc[0]) < 0.2, "a chord in KL would say -0.5"
    assert made.comparisons["p"].notna().all()
    assert any(entry.best for entry in made.entries.values())
    assert "read along the curve that runs recorded" in "\n".join(made.notes)
