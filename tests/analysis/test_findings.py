"""Claims by intervals: closed cases, the paper's numbers, and findings over real records."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.analysis import notebook
from ablate.analysis.findings import (
    FAILS,
    HOLDS,
    OPEN,
    Claim,
    Finding,
    from_intervals,
    from_runs,
    judge,
    paper_findings,
    verdict,
)
from ablate.errors import StoreError
from ablate.results.sweeps import fixed_margin
from madestore import answers, freeze, grid, put

PAPER = Path(__file__).resolve().parents[2] / "results" / "reference" / "paper"


def one(kind: str, gap: float, se: float = 0.01, margin: float = 0.1) -> str:
    finding = Finding(1, "", (Claim("a", kind, "b"),))  # type: ignore[arg-type]
    return verdict(judge(finding, lambda first, second: (gap, se, 20.0), margin))


@pytest.mark.parametrize(
    ("kind", "gap", "se", "wanted"),
    [
        ("greater", 0.5, 0.01, HOLDS), ("greater", -0.5, 0.01, FAILS), ("greater", 0.5, 1, OPEN),
        ("equal", 0.0, 0.01, HOLDS), ("equal", 0.5, 0.01, FAILS), ("equal", 0.0, 1, OPEN),
        ("equal", -0.5, 0.01, FAILS), ("not_more", -5.0, 0.01, HOLDS),
        ("not_more", 0.5, 0.01, FAILS), ("not_more", 0.1, 0.01, OPEN),
    ],
)  # fmt: skip
def test_a_claim_is_judged_by_its_interval(kind: str, gap: float, se: float, wanted: str) -> None:
    assert one(kind, gap, se) == wanted


def test_a_finding_needs_all_claims_and_falls_with_one() -> None:
    gaps = {("a", "b"): 1.0, ("b", "c"): -1.0, ("c", "d"): 0.0}
    known = lambda first, second: (gaps[first, second], 0.01, 9.0)  # noqa: E731
    claims = [Claim(*pair[:1], "greater", pair[1]) for pair in gaps]
    assert verdict(judge(Finding(1, "", tuple(claims[:1])), known, 0.1)) == HOLDS
    assert verdict(judge(Finding(1, "", tuple(claims)), known, 0.1)) == FAILS
    assert verdict(judge(Finding(1, "", (claims[0], claims[2])), known, 0.1)) == OPEN
    lost = judge(Finding(1, "", tuple(claims[:1])), lambda first, second: None, 0.1)
    assert verdict(lost) == OPEN
    assert lost["verdict"].tolist() == ["cannot tell: not in the study"]


def test_intervals_hold_for_all_claims_of_a_finding_at_once() -> None:
    claims = tuple(Claim("a", "greater", name) for name in "bcde")
    judged = judge(Finding(1, "", claims), lambda first, second: (1.0, 0.2, 7.0), 0.1)
    half = stats.t.ppf(1 - 0.05 / 8, 7) * 0.2
    assert judged["low"].tolist() == pytest.approx([1 - half] * 4)


def test_contrasts_of_runs_are_those_of_the_blocked_fit() -> None:
    rng = np.random.default_rng(0)
    shift = {seed: rng.normal() for seed in range(6)}
    rows = [
        {"name": name, "block": seed, "value": shift[seed] + mean + rng.normal(0, 0.1)}
        for name, mean in (("a", 0.0), ("b", 1.0))
        for seed in shift
    ]
    runs = pd.DataFrame(rows)
    gap, se, df = from_runs(runs)("b", "a") or (math.nan,) * 3
    wide = runs.pivot(index="block", columns="name", values="value")
    paired = stats.ttest_rel(wide["b"], wide["a"])
    assert gap == pytest.approx((wide["b"] - wide["a"]).mean())
    assert gap / se == pytest.approx(paired.statistic)
    assert df == 5
    assert from_runs(runs)("b", "c") is None


def paper_contrast() -> tuple[pd.Series, object]:
    table = pd.read_csv(PAPER / "table2.csv").query("base == 'llama3-8b'")
    kind = table["reward_model"].map({"gt": "gold", "learnt": "learnt"})
    name = table["loss"] + " " + table["K"].map("{:.0f}".format) + " " + table["responses"] + " "
    name = (name + kind).where(table["loss"] != "sft", "sft")
    means = pd.Series(table["reward_test"].to_numpy(), index=name)
    return means, from_intervals(means, pd.Series(table["reward_test_ci95"].to_numpy(), index=name))


def test_the_paper_s_table_disputes_its_prose() -> None:
    """RPO-bwd with four responses is about 3.6 standard errors above that with two."""
    _, contrast = paper_contrast()
    gap, se, _ = contrast("rpo_bwd 4 offline gold", "rpo_bwd 2 offline gold")  # type: ignore[operator]
    assert gap / se == pytest.approx(3.6, abs=0.05)
    gap, se, _ = contrast("rpo_bwd 4 online learnt", "sft")  # type: ignore[operator]
    assert (gap, 1.96 * se) == (pytest.approx(0.071), pytest.approx(0.014, abs=1e-4))


def test_every_arm_that_a_finding_names_is_in_the_paper_s_table() -> None:
    means, _ = paper_contrast()
    known = set(means.index) | {"prompts id", "prompts ood"}
    for finding in paper_findings():
        if finding.number != 5:
            for claim in finding.claims:
                assert {claim.first, claim.second} <= known
    assert [finding.number for finding in paper_findings()] == list(range(1, 8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    grid(root, {"dpo": 5.5, "simpo": 5.55}, [2, 4], [0, 1, 2])
    return root


def test_a_view_copes_with_what_is_not_there(root: Path) -> None:
    view = notebook.open_study(str(root), "nope", ["objective=dpo,ppo", "num_responses=2"])
    assert "no sweep 'nope'" in view.told[0]
    assert "not in the study: objective=ppo" in view.told
    made = view.table(["objective"], ["match"], baseline="kto")
    assert made is not None
    assert made.rows == [("dpo",)]
    assert "dpo" in notebook.show(made, view).html
    assert not notebook.open_study(str(root), None, ["reward=explicit"])
    none = notebook.open_study(str(root), None, ["collection=online"])
    assert none.table(["objective"]) is None
    assert "no table" in notebook.show(None, none).html
    assert "nothing to draw" in notebook.draw(lambda table: None, made).html
    with pytest.raises(StoreError, match="no results folder"):
        notebook.open_study(str(root / "nowhere"), "x")


def test_a_view_takes_what_the_sweep_fixed_and_tests_it(root: Path) -> None:
    view = notebook.open_study(str(root))
    made = view.table(["objective"], ["num_responses"], baseline="dpo", margin=0.3)
    assert made is not None
    assert len(made.comparisons) == 2
    assert "0.300" in made.caption


def test_trials_without_fresh_seeds_are_shown_with_a_note(tmp_path: Path) -> None:
    root = tmp_path / "tuned"
    records = [
        put(root, answers(5 + beta, seed), objective="dpo", objective__beta=beta, seed=seed)
        for beta in (0.1, 0.2) for seed in (0, 1)
    ]  # fmt: skip
    freeze(root, [r.data["config"] for r in records], [r.identity for r in records], "mine")
    made = notebook.open_study(str(root), "mine").table(["objective"])
    assert made is not None
    assert any("flatter" in note for note in made.notes)


def test_arms_are_never_chosen_among_as_if_they_were_trials(tmp_path: Path) -> None:
    """Online and offline runs of an objective are rows of their own, whatever rows were asked."""
    root = tmp_path / "mixed"
    for seed in (0, 1, 2):
        for collection, mean in (("offline", 5.0), ("online", 6.0)):
            put(root, answers(mean, seed), objective="dpo", collection=collection, seed=seed)
    view = notebook.open_study(str(root))
    made = view.table(["objective"], baseline="dpo")
    assert made is not None
    assert made.rows == [("offline",), ("online",)]
    assert all(entry.tuned is None for entry in made.entries.values())


def test_a_margin_speaks_of_the_metric_that_it_was_fixed_for() -> None:
    fixed = {"margin": "0.1", "metrics": ["reward/test", "kl/test"]}
    assert fixed_margin(fixed, "reward/ood") == "0.1"
    assert fixed_margin(fixed, "ranking_accuracy/test") is None
    assert fixed_margin({"margin": "0.1"}, "reward/test") == "0.1"
    assert fixed_margin({}, "reward/test") is None
