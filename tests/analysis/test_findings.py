"""Claims by intervals: closed cases, the paper's numbers, and findings over real records."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.analysis import notebook, paper
from ablate.analysis.findings import (
    AGREE,
    DISAGREE,
    FAILS,
    HOLDS,
    OPEN,
    PARTLY,
    Claim,
    Contrasts,
    Finding,
    from_changes,
    from_counts,
    from_intervals,
    from_runs,
    judge,
    points,
    verdict,
)
from ablate.errors import StoreError
from ablate.results.sweeps import fixed_margin
from madestore import answers, freeze, grid, put

PAPER = Path(__file__).resolve().parents[2] / "results" / "reference" / "paper"


def one(kind: str, gap: float, se: float = 0.01, margin: float = 0.1) -> str:
    finding = Finding(1, "", (Claim("a", kind, "b"),))  # type: ignore[arg-type]
    return verdict(judge(finding, {"reward": lambda weights: (gap, se, 20.0)}, margin))


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
    known = {"reward": lambda weights: (gaps[tuple(weights)], 0.01, 9.0)}
    claims = [Claim(*pair[:1], "greater", pair[1]) for pair in gaps]
    assert verdict(judge(Finding(1, "", tuple(claims[:1])), known, 0.1)) == HOLDS
    assert verdict(judge(Finding(1, "", tuple(claims)), known, 0.1)) == FAILS
    assert verdict(judge(Finding(1, "", (claims[0], claims[2])), known, 0.1)) == OPEN
    for nothing in ({"reward": lambda weights: None}, {}):
        lost = judge(Finding(1, "", tuple(claims[:1])), nothing, 0.1)
        assert verdict(lost) == OPEN
        assert lost["verdict"].tolist() == ["cannot tell: not in the study"]


def test_what_was_not_measured_neither_holds_nor_hides_what_does() -> None:
    there, elsewhere = Claim("a", "greater", "b"), Claim("a", "greater", "b", "speed")
    for gap, wanted in ((1.0, PARTLY), (0.0, OPEN), (-1.0, FAILS)):
        known = {"reward": lambda weights, gap=gap: (gap, 0.01, 9.0)}
        assert verdict(judge(Finding(1, "", (there, elsewhere)), known, 0.1)) == wanted


def test_intervals_hold_for_all_claims_of_a_finding_at_once() -> None:
    claims = tuple(Claim("a", "greater", name) for name in "bcde")
    judged = judge(Finding(1, "", claims), {"reward": lambda weights: (1.0, 0.2, 7.0)}, 0.1)
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
    gap, se, df = from_runs(runs)({"b": 1.0, "a": -1.0}) or (math.nan,) * 3
    wide = runs.pivot(index="block", columns="name", values="value")
    paired = stats.ttest_rel(wide["b"], wide["a"])
    assert gap == pytest.approx((wide["b"] - wide["a"]).mean())
    assert gap / se == pytest.approx(paired.statistic)
    assert df == 5
    assert from_runs(runs)({"b": 1.0, "c": -1.0}) is None
    _, alone, df = from_runs(runs[runs["block"] == 0])({"b": 1.0, "a": -1.0}) or (0.0,) * 3
    assert (math.isnan(alone), df) == (True, 0)


def test_a_gap_between_gaps_is_a_claim_too() -> None:
    claim = Claim("a minus b", "greater", "c minus d")
    assert claim.weights == {"a": 1, "b": -1, "c": -1, "d": 1}
    rng = np.random.default_rng(2)
    wide = pd.DataFrame(rng.normal(0, 1, (6, 4)), columns=list("abcd"))
    runs = wide.melt(var_name="name", ignore_index=False).rename_axis("block").reset_index()
    gap, se, df = from_runs(runs)(claim.weights) or (math.nan,) * 3
    assert gap == pytest.approx((wide["a"] - wide["b"] - wide["c"] + wide["d"]).mean())
    left = wide.sub(wide.mean(axis=1), axis=0) - wide.mean() + wide.mean().mean()
    assert (df, se) == (15, pytest.approx(math.sqrt((left**2).sum().sum() / 15 * 4 / 6)))


def test_changes_are_tested_by_the_arm_s_own_runs() -> None:
    values = np.array([0.3, 0.5, 0.1, 0.4])
    changes = pd.DataFrame({"name": "a", "value": values})
    found = from_changes(changes)(Claim("a at last", "greater", "a at first").weights)
    gap, se, df = found or (math.nan,) * 3
    assert (gap / se, df) == (pytest.approx(stats.ttest_1samp(values, 0).statistic), 3)
    falls = from_changes(changes)(Claim("a at first", "greater", "a at last").weights)
    assert falls == (pytest.approx(-gap), pytest.approx(se), 3)
    assert from_changes(changes)(Claim("b at last", "greater", "b at first").weights) is None
    single = from_changes(changes.head(1))(Claim("a at last", "greater", "a at first").weights)
    assert single is not None
    assert math.isnan(single[1])


def test_shares_have_agresti_and_caffo_s_interval() -> None:
    gap, se, _ = from_counts({"a": (5, 8), "b": (0, 8)})({"a": 1.0, "b": -1.0}) or (math.nan,) * 3
    assert gap == pytest.approx(0.6 - 0.1)
    assert se == pytest.approx(math.sqrt(0.6 * 0.4 / 10 + 0.1 * 0.9 / 10))
    none = from_counts({"a": (0, 8), "b": (0, 8)})({"a": 1.0, "b": -1.0})
    assert none is not None
    assert none[0] == 0
    assert none[1] > 0


def published(base: str = "llama3-8b") -> tuple[pd.Series, Contrasts, float]:
    return paper.published(*(pd.read_csv(PAPER / f"table{n}.csv") for n in (2, 3, 4)), base)


def test_the_paper_s_table_disputes_its_prose() -> None:
    """RPO-bwd with four responses is about 3.6 standard errors above that with two."""
    contrast = published()[1]["reward"]
    four = {"rpo_bwd 4 offline gold": 1.0, "rpo_bwd 2 offline gold": -1.0}
    gap, se, _ = contrast(four) or (math.nan,) * 3
    assert gap / se == pytest.approx(3.6, abs=0.05)
    gap, se, _ = contrast({"rpo_bwd 4 online learnt": 1.0, "sft": -1.0}) or (math.nan,) * 3
    assert (gap, 1.96 * se) == (pytest.approx(0.071), pytest.approx(0.014, abs=1e-4))


def test_an_arm_without_a_half_width_gives_no_interval_unless_no_seed_redraws_it() -> None:
    means = pd.Series({"a": 2.0, "b": 1.0, "sft": 0.0})
    contrast = from_intervals(means, pd.Series({"a": 0.1, "b": math.nan, "sft": math.nan}))
    finding = Finding(1, "", (Claim("a", "greater", "sft"), Claim("a", "greater", "b")))
    judged = judge(finding, {"reward": contrast}, 0.1)
    assert judged["verdict"].tolist() == [HOLDS, "cannot tell: no interval"]
    assert judged["difference"].tolist() == [2.0, 1.0]


def test_the_paper_s_rounds_have_no_interval() -> None:
    five = paper.paper_findings()[4]
    told = {}
    for base in ("llama3-8b", "llama3-70b"):
        judged = judge(five, published(base)[1], 0.1, "its tables").set_index("claim")["verdict"]
        told[base] = judged
    assert told["llama3-8b"]["dpo offline round 2 > dpo offline round 1"].endswith("no interval")
    assert told["llama3-70b"].iloc[-1] == "cannot tell: no interval"


def test_every_arm_that_a_finding_names_is_in_the_paper_s_tables() -> None:
    known = set(published()[0].index) | set(published("llama3-70b")[0].index)
    findings = paper.paper_findings()
    for claim in (claim for finding in findings for claim in finding.claims):
        if claim.measure == "reward":
            assert set(claim.weights) <= known
    assert [finding.number for finding in findings] == list(range(1, 8))
    others = {claim.measure for finding in findings for claim in finding.claims} - {"reward"}
    assert others == {paper.KL, paper.CRASHES, paper.LEARNT, paper.JUDGE}


def test_the_70b_rows_are_judged_without_a_test() -> None:
    means, contrasts, margin = published("llama3-70b")
    assert margin == pytest.approx(0.1 * (5.805 - 5.469))
    told = [points(finding, contrasts, margin) for finding in paper.paper_findings()]
    assert told[0] == told[1] == told[3] == AGREE
    # its gap between online and offline goes from 0.163 to 0.075; its DPO has no rounds
    assert told[2] == told[4] == f"{AGREE}, as far as they go"
    # 5.503 - 5.469 is more than the margin
    assert told[5] == f"{DISAGREE} (1 of 2 claims)"
    assert told[6] == "not in its tables"
    assert means["rpo_bwd online round 3"] == 6.056


def paper_runs(kl: float, crashed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Online runs of both objectives and rewards; sqloo's KL grows by `kl` times bwd's."""
    rng = np.random.default_rng(4)
    runs, curve = [], []
    for objective in ("rpo_bwd", "rpo_sqloo"):
        for reward, choice in (("gold", "valid"), ("explicit", "valid"), ("explicit", "last")):
            for seed in range(6):
                name = f"{objective}-{reward}-{choice}-{seed}"
                better = 1.0 if reward == "gold" else 0.0
                better += 0.3 if objective == "rpo_bwd" else 0.0
                bad = objective == "rpo_sqloo" and reward == "gold" and seed < crashed
                runs.append(
                    {"id": name, "objective": objective, "num_responses": 4, "reward": reward,
                     "collection": "online", "config.training.select_checkpoint": choice,
                     "block": seed, "seed": seed, "status": "diverged" if bad else "done",
                     "reward/test": 5 + better + rng.normal(0, 0.02), "reward_sft/test": 5.4}
                )  # fmt: skip
                # those that were helped to a good last step rise; the others fall
                judge_change = 0.5 if choice == "last" else -0.5
                for step in (0, 10, 20):
                    grown = step * (kl if objective == "rpo_sqloo" else 1.0) / 20
                    curve.append(
                        {"id": name, "step": step, "kl": grown * rng.uniform(0.9, 1.1),
                         "judge_reward": 5 + step / 20 * judge_change + rng.normal(0, 0.02),
                         "training_reward": step / 10 + rng.normal(0, 0.02)}
                    )  # fmt: skip
                if objective == "rpo_sqloo":
                    # its runs go on for longer, which is no faster growth
                    curve.append({**curve[-1], "step": 30, "kl": 9.0})
    return pd.DataFrame(runs), pd.DataFrame(curve)


@pytest.mark.parametrize(
    ("kl", "crashed", "wanted"), [(2.0, 6, HOLDS), (0.5, 6, FAILS), (2.0, 1, OPEN)]
)
def test_finding_3_is_of_kl_and_crashes_too(kl: float, crashed: int, wanted: str) -> None:
    runs, curve = paper_runs(kl, crashed)
    contrasts = paper.study(runs, runs, curve, "reward/test")
    assert verdict(judge(paper.paper_findings()[2], contrasts, 0.05)) == wanted
    reward_alone = judge(paper.paper_findings()[2], {"reward": contrasts["reward"]}, 0.05)
    assert verdict(reward_alone) == PARTLY


def test_finding_6_follows_both_rewards_to_the_last_step() -> None:
    runs, curve = paper_runs(1.0, 0)
    finding = paper.paper_findings()[5]
    judged = judge(finding, paper.study(runs, runs, curve, "reward/test"), 0.05)
    assert verdict(judged) == HOLDS
    assert judged["difference"].tolist()[2:] == pytest.approx([2.0, 2.0, 0.5, 0.5], abs=0.05)
    flat = curve.assign(training_reward=np.where(curve["step"] > 0, 0.0, 0.01))
    flat["training_reward"] += np.random.default_rng(0).normal(0, 0.1, len(flat))
    assert verdict(judge(finding, paper.study(runs, runs, flat, "reward/test"), 0.05)) == OPEN
    bare = judge(finding, paper.study(runs, runs, curve.iloc[:0], "reward/test"), 0.05)
    assert bare["verdict"].tolist() == [HOLDS] * 2 + ["cannot tell: not in the study"] * 4


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
