"""From a store to a table: cells, tests, refusals, and a note on everything unusual."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.analysis import AblationTable, Question, build, differences
from ablate.analysis.arms import trial_settings
from ablate.analysis.notebook import View
from ablate.analysis.reported import one_trial
from ablate.errors import ConfigError, DataError
from ablate.metrics import win_rate
from ablate.results import load_study
from ablate.store import records
from ablate.store.layout import Layout
from madestore import answers, config_of, freeze, grid, put


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four objectives × K = 2, 4 × three seeds."""
    root = tmp_path_factory.mktemp("grid") / "store"
    grid(root, {"dpo": 5.5, "simpo": 5.55, "kto": 4.8, "rpo_bwd": 5.9}, [2, 4], [0, 1, 2])
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def table(root: Path, sweep: str | None = None, **question: object) -> AblationTable:
    study = load_study(root, sweep)
    return build(study.frame, study.lacking, Question(**question))  # type: ignore[arg-type]


def told(made: AblationTable) -> str:
    return "\n".join(made.notes)


def test_every_number_comes_from_the_runs(store: Path) -> None:
    made = table(store, rows=("objective",), cols=("num_responses",), baseline="dpo", margin=0.3)
    assert made.cols == [("2",), ("4",)]
    frame = load_study(store).frame
    for (row, col, _), entry in made.entries.items():
        cell = frame[(frame["objective"] == row[0]) & (frame["num_responses"] == int(col[0]))]
        assert entry.mean == pytest.approx(cell["reward/test"].mean())
        assert entry.seeds == (0, 1, 2)
        assert entry.is_baseline == (row == ("dpo",))
    arm = frame["objective"] + frame["num_responses"].astype(str)
    runs = pd.DataFrame({"arm": arm, "seed": frame["seed"], "value": frame["reward/test"]})
    pairs = {name: f"dpo{name[-1]}" for name in set(arm)}
    expected = differences(runs, pairs, margin=0.3).set_index("arm")
    for (row, col, _), entry in made.entries.items():
        if row == ("dpo",):
            assert entry.comparison is None
            continue
        assert entry.comparison is not None
        for name in ("difference", "p_holm", "low", "p_equivalent_holm"):
            assert entry.comparison[name] == pytest.approx(expected.loc[row[0] + col[0], name])
    data = made.data
    assert len(data) == 8
    assert set(data["num_responses"]) == {"2", "4"}


def test_a_margin_that_is_wide_for_these_runs_is_told(store: Path) -> None:
    question = {"rows": ("objective",), "cols": ("num_responses",), "baseline": "dpo"}
    frame = load_study(store).frame
    gain = (frame["reward/test"] - frame["reward_sft/test"]).groupby(
        [frame["objective"], frame["num_responses"]]
    )
    best = float(gain.mean().max())
    assert "of the best offline gain over SFT here" in told(
        table(store, **question, margin=0.2 * best)
    )
    assert "of the best offline gain" not in told(table(store, **question, margin=0.1 * best))


def test_a_margin_out_of_reach_is_told(store: Path) -> None:
    question = {"rows": ("objective",), "cols": ("num_responses",), "baseline": "dpo"}
    near = told(table(store, **question, margin=0.05))
    needed = re.search(r"≈ would take about (\d+) seeds per cell even if nothing differed", near)
    assert needed is not None
    assert int(needed[1]) > 3
    assert "even if nothing differed" not in told(table(store, **question, margin=5.0))
    assert "even if nothing differed" not in told(table(store, **question))


def test_a_baseline_of_one_cell_is_compared_with_all_others(store: Path) -> None:
    made = table(
        store, rows=("objective", "num_responses"), baseline="objective=dpo,num_responses=2"
    )
    assert len(made.comparisons) == 7
    assert set(made.comparisons["baseline"]) == {(("dpo", "2"), ())}


def test_the_caption_states_what_a_reader_asks(store: Path) -> None:
    made = table(store, rows=("objective",), cols=("num_responses",), baseline="dpo", margin=0.3)
    for part in ("3 seeds", "redraws SFT", "Judge: world", "40 test prompts", "95 %", "dpo",
                 "blocked by seed", "14 degrees", "Holm", "6 comparisons", "0.300"):  # fmt: skip
        assert part in made.caption
    assert "power: 3 seeds find a difference of" in told(made)


def test_metrics_are_computed_from_stored_answers(store: Path) -> None:
    made = table(
        store, rows=("objective",), cols=("num_responses",), baseline="dpo",
        metrics=("win_rate_baseline", "win_rate_lc/ood", "repetition"),
    )  # fmt: skip
    frame = made.runs.set_index(["objective", "num_responses", "seed"])
    mine, other = (
        pd.read_parquet(Path(frame.loc[(name, 2, 1), "path"]) / "eval.parquet").query(
            "split == 'test'"
        )
        for name in ("kto", "dpo")
    )
    expected = win_rate(
        mine["judge_score"].to_numpy(), other["judge_score"].to_numpy(),
        mine["prompt_id"].to_numpy(),
    )  # fmt: skip
    assert frame.loc[("kto", 2, 1), "win_rate_baseline/test"] == pytest.approx(expected.mean)
    assert frame.loc[("dpo", 2, 1), "win_rate_baseline/test"] == 0.5
    tested = set(made.comparisons["stratum"].str.split(" ").str[0])
    assert tested == {"win_rate_lc/ood", "repetition/test"}, "0.5 has no spread to test with"
    with pytest.raises(ConfigError, match="--baseline"):
        table(store, rows=("objective",), cols=("num_responses",), metrics=("win_rate_baseline",))


@pytest.mark.parametrize(
    ("question", "error", "parts"),
    [
        ({"metrics": ("rewrd",)}, DataError, ["'reward'", "kl", "splits: ood, test, train, valid"]),
        ({"rows": ("objektive",)}, ConfigError, ["objektive", "objective"]),
        ({"rows": ("objective",)}, ConfigError, ["num_responses.k (2, 4)", "--cols"]),
        ({"rows": ("objective",), "cols": ("objective",)}, ConfigError, ["both"]),
        ({"baseline": "ppo"}, ConfigError, ["ppo", "dpo 2"]),
        ({"baseline": "dpo"}, ConfigError, ["fits 2 rows"]),
        ({"metrics": ("ranking_accuracy",)}, DataError, ["pairs.parquet", "log-probs"]),
    ],
)
def test_questions_that_cannot_be_answered(
    store: Path, question: dict[str, object], error: type[Exception], parts: list[str]
) -> None:
    with pytest.raises(error) as raised:
        table(store, **question)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"judge": "hf", "judge__kind": "hf"}, "judge.kind: hf, world"),
        ({"evaluation__sampling__temperature": 0.7}, "evaluation.sampling.temperature: 0.7, 1"),
        ({"evaluation__num_test": 100}, "evaluation.num_test"),
        ({"dataset": "sums"}, "dataset.name: lists, sums"),
    ],
)
def test_runs_judged_differently_are_refused_by_name(
    root: Path, change: dict[str, object], named: str
) -> None:
    for seed in (0, 1):
        put(root, answers(5.0, seed), objective="dpo", seed=seed)
        put(root, answers(5.1, seed), objective="ipo", seed=seed, **change)
    with pytest.raises(DataError) as raised:
        table(root, rows=("objective",), baseline="dpo")
    assert named in str(raised.value)
    assert "--where" in str(raised.value)


def test_datasets_in_columns_are_tables_of_their_own(root: Path) -> None:
    for seed in range(3):
        for dataset, size in (("lists", 1.0), ("sums", 0.01)):
            for number, objective in enumerate(("dpo", "ipo")):
                made = answers(size * (5 + number), seed * 10 + number, spread=size)
                put(root, made, objective=objective, dataset=dataset, seed=seed, sft=dataset)
    found = table(root, rows=("objective",), cols=("dataset",), baseline="dpo")
    assert not found.same_scale
    sd = found.comparisons["sd"].tolist()
    assert max(sd) > 5 * min(sd), "each scale has a variance of its own"
    assert "the cells of a column" in found.caption


def test_missing_failed_and_diverged_runs_are_shown(root: Path) -> None:
    kept = [
        put(root, answers(5.0, seed), objective=name, seed=seed,
            status="diverged" if (name, seed) == ("ipo", 1) else "done")
        for name in ("dpo", "ipo") for seed in (0, 1, 2) if (name, seed) != ("ipo", 2)
    ]  # fmt: skip
    configs = [record.data["config"] for record in kept]
    configs += [config_of(objective="ipo", seed=2), config_of(objective="kto", seed=0)]
    ids = [record.identity for record in kept] + ["a" * 32, "b" * 32]
    freeze(root, configs, ids, "mine")
    records.write_failure(records.new_attempt(Layout(root), "a" * 32), "x", "out of memory", None)
    made = table(root, "mine", rows=("objective",), baseline="dpo")
    entry = made.entries[("ipo",), (), "reward/test"]
    assert (entry.runs, entry.diverged, entry.lacking) == (2, 1, {"failed": 1})
    gone = made.entries[("kto",), (), "reward/test"]
    assert (gone.runs, gone.lacking) == (0, {"missing": 1})
    assert np.isnan(gone.mean)
    for part in ("1 failed", "1 missing", "out of memory", "unequal seeds: 2 to 3",
                 "diverged, scored at the last finite checkpoint", "ipo 1 of 2"):  # fmt: skip
        assert part in told(made)


def test_a_row_of_identical_numbers_is_noticed(root: Path) -> None:
    for seed in (0, 1):
        for name in ("dpo", "ipo", "kto"):
            put(root, answers(6.0 if name == "kto" else 5.0, seed), objective=name, seed=seed)
    notes = told(table(root, rows=("objective",), baseline="dpo"))
    assert "rows dpo and ipo hold identical numbers" in notes
    assert "two seeds give very wide intervals" in notes


def test_unequal_prompts_compute_and_commits_are_noticed(root: Path) -> None:
    for seed in (0, 1, 2):
        put(root, answers(5.0, seed), objective="dpo", seed=seed, tokens=1000)
        put(root, answers(5.1, seed, prompts=20), objective="ipo", seed=seed, tokens=4000,
            commit="d" * 40)  # fmt: skip
    notes = told(table(root, rows=("objective",), baseline="dpo"))
    assert "unequal prompts" in notes
    assert "12 to 20" in notes
    assert "unequal compute: 1,000 tokens trained (dpo) to 4,000 (ipo)" in notes
    assert "different commits" in notes


def test_one_seed_is_no_comparison(root: Path) -> None:
    for name in ("dpo", "ipo"):
        put(root, answers(5.0 + len(name) / 10, 1), objective=name, seed=0)
    put(root, answers(5.4, 2), objective="kto", seed=1)
    made = table(root, rows=("objective",), baseline="dpo")
    assert not made.comparisons["significant"].any()
    assert "one seed, so no interval: dpo; ipo; kto" in told(made)
    assert "not compared" in told(made)
    assert "kto" in told(made)


def test_a_cell_that_spreads_more_than_the_others_is_noticed(root: Path) -> None:
    for seed in range(5):
        for number, name in enumerate(("dpo", "ipo", "kto", "simpo")):
            wild = 3.0 * (-1) ** seed if name == "simpo" else 0.0
            made = answers(5 + wild, seed * 10 + number, prompts=60)
            put(root, made, objective=name, seed=seed)
    assert "simpo varies" in told(table(root, rows=("objective",), baseline="dpo"))


def tuned_store(root: Path, fresh: bool) -> None:
    for name, betas in (("dpo", (0.1, 0.2, 0.3)), ("ipo", (0.1, 0.2))):
        for beta in betas:
            for seed in (0, 1):
                made = answers(5 + beta, seed + round(100 * beta), prompts=40, spread=0.1)
                put(root, made, objective=name, objective__beta=beta, seed=seed)
        if fresh:
            for seed in (5, 6, 7):
                made = answers(5 + betas[-1], seed, prompts=40, spread=0.1)
                put(root, made, objective=name, objective__beta=betas[-1], seed=seed)


def test_tuned_cells_report_fresh_seeds_with_trials_and_their_spread(root: Path) -> None:
    tuned_store(root, fresh=True)
    with pytest.raises(ConfigError, match=r"objective\.beta \(0\.1, 0\.2, 0\.3\)"):
        table(root, rows=("objective",), baseline="dpo")
    made = table(root, rows=("objective",), baseline="dpo", choose_by="reward/valid")
    entry = made.entries[("dpo",), (), "reward/test"]
    assert entry.seeds == (5, 6, 7)
    assert entry.tuned is not None
    assert (entry.tuned.trials, entry.tuned.chosen) == (3, "objective.beta=0.3")
    best, median, worst = entry.tuned.spread
    assert best > median > worst
    assert "unequal tuning: 2 to 3 trials" in told(made)
    assert made.data.set_index("objective").loc["dpo", "trials"] == 3
    with pytest.raises(DataError, match="valid flatters"):
        table(root, rows=("objective",), choose_by="reward/valid", metrics=("reward/valid",))
    with pytest.raises(ConfigError, match="valid only"):
        table(root, rows=("objective",), choose_by="reward/test")


def in_two_phases(root: Path) -> pd.DataFrame:
    """Runs of a sweep that tunes: seed 1000 chose the larger β, seeds 0 to 2 report it."""
    ids = []
    for name in ("dpo", "ipo"):
        for beta in (0.1, 0.2, 0.3):
            made = answers(5 + 3 * beta, 9, prompts=40, spread=0.1)
            record = put(root, made, objective=name, objective__beta=beta, seed=1000)
            ids.append(record.identity)
        for seed in (0, 1, 2):
            made = answers(5.5, seed + 10 * (name == "ipo"), prompts=40, spread=0.2)
            put(root, made, objective=name, objective__beta=0.3, seed=seed)
    frame = load_study(root).frame
    return frame.assign(phase=["tune" if i in ids else "report" for i in frame["id"]]).copy()


@pytest.mark.parametrize("choose_by", [None, "reward/valid"])
def test_arms_at_equal_kl_are_the_reported_runs(root: Path, choose_by: str | None) -> None:
    frame = in_two_phases(root)
    question = Question(rows=("objective",), baseline="dpo", matched_kl="max", choose_by=choose_by)
    made = build(frame, frame.iloc[:0], question)
    assert {entry.seeds for entry in made.entries.values()} == {(0, 1, 2)}
    assert set(made.runs["phase"]) == {"report"}
    with pytest.raises(DataError, match="no run yet that reports"):
        build(frame[frame["phase"] == "tune"], frame.iloc[:0], question)


def test_what_the_draw_of_trials_adds_is_told(root: Path) -> None:
    frame = in_two_phases(root)
    question = Question(rows=("objective",), baseline="dpo", choose_by="reward/valid")
    made = build(frame, frame.iloc[:0], question)
    # trials differ by 0.3 on valid, noise apart
    found = re.search(r"it moves them by about (\d\.\d+) in judge reward", told(made))
    assert found is not None
    assert 0.15 < float(found[1]) / math.sqrt(2) < 0.45
    assert "Tests compare the chosen trials" in made.caption
    plain = frame[frame["phase"] == "report"].drop(columns="phase")
    untuned = build(plain, frame.iloc[:0], question)
    assert "Tests compare the chosen trials" not in untuned.caption
    assert "luck" not in told(untuned)


def test_a_share_of_the_best_gain_is_of_the_reported_cells(root: Path) -> None:
    frame = in_two_phases(root)
    question = Question(
        rows=("objective",), baseline="dpo", choose_by="reward/valid", margin_share=0.1,
        metrics=("reward/test", "kl"),
    )  # fmt: skip
    made = build(frame, frame.iloc[:0], question)
    gain = (made.runs["reward/test"] - made.runs["reward_sft/test"]).groupby(made.runs["row"])
    assert made.question.margin == pytest.approx(0.1 * gain.mean().max())
    assert made.margin_share == 0.1
    assert "in judge reward, test (two one-sided tests" in made.caption, "which of two metrics"
    assert "read off these runs after the fact" in made.caption
    fixed = build(frame, frame.iloc[:0], replace(question, margin=0.2))
    assert (fixed.question.margin, fixed.margin_share) == (0.2, None)
    assert "after the fact" not in fixed.caption
    # checkpoints chosen in different ways are cells of their own
    two = frame.assign(**{"config.training.select_checkpoint": "valid"}).copy()
    better = two.assign(
        **{"config.training.select_checkpoint": "last", "reward/test": two["reward/test"] + 1},
        id=two["id"] + "x",
    )
    both = build(
        pd.concat([two, better], ignore_index=True).copy(), frame.iloc[:0],
        replace(question, rows=("objective", "training.select_checkpoint"), baseline="dpo valid"),
    )  # fmt: skip
    assert both.question.margin == pytest.approx(made.question.margin + 0.1)
    # as a notebook reads it from a sweep's settings
    study = replace(load_study(root), frame=frame, settings={"margin": "10%"})
    shown = View(study, frame, frame.iloc[:0], []).table(["objective"], baseline="dpo")
    assert shown is not None
    assert (shown.question.margin, shown.margin_share) == (made.question.margin, 0.1)
    # no offline cell gained
    online = build(frame.assign(collection="online"), frame.iloc[:0], question)
    assert online.question.margin is None
    assert "≈" not in online.caption


def test_a_cell_of_several_tuned_arms_says_what_tells_them_apart() -> None:
    """Not that trials were added, and no setting that a level's name or the tuning explains."""
    titles = {"dpo": "Direct Preference Optimization", "ipo": "Identity Preference Optimization"}
    runs = [
        {"phase": phase, "config.training.lr": lr, "seed": seed, "config.objective.name": name,
         "config.objective.title": title, "reward/valid": lr}
        for name, title in titles.items()
        for phase, lr, seed in (("tune", 1e-4, 1000), ("tune", 3e-4, 1000), ("report", 3e-4, 0))
    ]  # fmt: skip
    frame = pd.DataFrame(runs).assign(row=[("4",)] * 6, col=[()] * 6)
    rows, asked = ["config.num_responses.k"], Question(choose_by="reward/valid")
    differing = trial_settings(frame)
    with pytest.raises(ConfigError) as hit:
        one_trial(frame, rows, [], asked, differing)
    assert "mixes arms of the sweep" in str(hit.value)
    assert "differ in objective.name (dpo, ipo). Add" in str(hit.value)


def test_the_seeds_that_chose_are_refused_or_noted(root: Path) -> None:
    tuned_store(root, fresh=False)
    with pytest.raises(DataError, match="fresh seeds"):
        table(root, rows=("objective",), baseline="dpo", choose_by="reward/valid")
    made = table(
        root, rows=("objective",), baseline="dpo", choose_by="reward/valid", reuse_seeds=True
    )
    assert "flatter" in told(made)


def test_the_newer_of_two_runs_with_equal_settings_counts(root: Path) -> None:
    old = put(root, answers(1.0, 0), objective="dpo", seed=0, commit="a" * 40)
    put(root, answers(5.0, 1), objective="dpo", seed=0, commit="b" * 40)
    put(root, answers(5.0, 2), objective="ipo", seed=0, commit="b" * 40)
    made = table(root, rows=("objective",))
    assert made.entries[("dpo",), (), "reward/test"].mean > 4
    assert old.short in told(made)


def test_base_models_are_compared_although_they_share_no_sft_policy(root: Path) -> None:
    for seed in range(3):
        for model in ("tiny", "small"):
            made = answers(5 + (model == "small"), seed * 2 + (model == "small"), spread=0.3)
            put(root, made, base_model=model, seed=seed, sft=model)
    made = table(root, rows=("base_model",), baseline="tiny", metrics=("reward/test", "win_rate"))
    assert np.isfinite(made.comparisons["p"]).all()
    assert "own SFT policy" in told(made)


def test_a_metric_that_some_runs_lack_is_told(root: Path) -> None:
    for seed in (0, 1, 2):
        put(root, answers(5.0, seed), objective="dpo", seed=seed)
        table_of_order = answers(5.1, seed).drop(columns="train_reward")
        put(root, table_of_order, objective="ipo", seed=seed, reward="labels")
    made = table(root, rows=("objective",), baseline="dpo", metrics=("train_reward", "reward"))
    assert np.isnan(made.entries[("ipo",), (), "train_reward/test"].mean)
    assert "training reward, test: 3 runs have no value (ipo)" in told(made)
    assert len(made.comparisons) == 1


def test_no_finished_run_is_an_error(root: Path) -> None:
    root.mkdir()
    with pytest.raises(DataError, match="no finished run"):
        table(root)
