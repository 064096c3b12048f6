"""Named sweeps: what their files may say, what a study of K matches, and what tuning draws."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.config import legality
from ablate.config.compose import compose, hydra_session
from ablate.config.expand import Expansion, analysis_words, expand
from ablate.config.levels import level_names, read_level
from ablate.config.matching import matched
from ablate.config.sweep_file import MATCHES
from ablate.config.tuning import draw, ranges_of
from ablate.errors import ConfigError

SWEEPS = level_names("sweep")


def expanded(*words: str, folder: Path | None = None) -> Expansion:
    with hydra_session([str(folder)] if folder else []) as hydra:
        return expand(hydra.config_loader, list(words))


def written(folder: Path, text: str, group: str = "sweep", name: str = "mine") -> Path:
    path = folder / group / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


@pytest.mark.parametrize("name", SWEEPS)
def test_every_shipped_sweep_is_legal_and_fixes_its_table(name: str) -> None:
    tuned = "tune" in read_level("sweep", name)
    words = [f"+sweep={name}", "seed=0", *(["tune.trials=1"] if tuned else [])]
    found = expanded(*words)
    for run in found.runs:
        legality.check(run)
    for contest in found.contests:
        assert len(contest.trials) == 1
        assert contest.seeds == [0]
        assert contest.ranges
    with hydra_session() as hydra:
        fixed = [word.split("=")[0] for word in analysis_words(hydra.config_loader, words)]
    assert {"analysis.rows", "analysis.baseline", "analysis.margin"} <= set(fixed)
    assert ("analysis.choose" in fixed) == tuned


def test_the_questions_of_the_paper_are_shipped() -> None:
    assert set(SWEEPS) >= {
        "objectives", "num_responses", "implicit_explicit", "online_offline", "iterations",
        "reward_quality", "prompt_distribution", "model_size", "label_noise", "paper",
    }  # fmt: skip
    assert len(read_level("sweep", "num_responses")["match"]) >= 2


def test_all_arms_of_the_papers_second_table_are_in_its_sweep() -> None:
    found = {
        (r.objective.name, r.num_responses.k, r.collection.name, r.reward.name)
        for r in expanded("+sweep=paper", "seed=0", "tune.trials=1").runs
    }
    offline = {(o, 2, "offline", "gold") for o in ("dpo", "simpo", "kto", "rpo_bwd", "rpo_sqloo")}
    offline |= {(o, 4, "offline", "gold") for o in ("rpo_bwd", "rpo_sqloo")}
    online = {(o, 4, "online", r) for o in ("rpo_bwd", "rpo_sqloo") for r in ("gold", "explicit")}
    assert found == offline | online


def test_every_arm_has_as_many_trials_and_the_same_draws_of_a_common_setting() -> None:
    found = expanded("+sweep=objectives", "tune.trials=3")
    assert {len(contest.trials) for contest in found.contests} == {3}
    rates = {tuple(t.settings["training.lr"] for t in c.trials) for c in found.contests}
    assert len(rates) == 1
    for contest in found.contests:
        for trial in contest.trials:
            assert [run.seed.value for run in trial.runs] == [1000]
            assert trial.runs[0].training.lr == trial.settings["training.lr"]
            assert trial.runs[0].objective.beta == trial.settings["objective.beta"]


def test_the_command_line_replaces_what_the_file_says() -> None:
    found = expanded("+sweep=quick", "seed=7", "num_responses=2", "objective=dpo")
    assert {(r.objective.name, r.num_responses.k, r.seed.value) for r in found.runs} == {
        ("dpo", 2, 7)
    }
    plain = expanded("+sweep=objectives", "tune=false", "seed=range(0,2)")
    assert not plain.contests
    assert {run.seed.value for run in plain.runs} == {0, 1}
    matches = expanded("+sweep=num_responses", "tune=false", "match=tokens,labels", "seed=0")
    assert {label["match"] for label in matches.labels} == {"tokens", "labels"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("arms: []", ["arms"]),
        ("arms: [{objective: dpo}]\nseed: [1]", ["seed: there is no such setting"]),
        ("arms: [{num_responses: [2, 4]}]", ["names nothing", "2, 4", "[prompts, responses]"]),
        ("arms: [{num_responses: [2, 4]}]\nmatch: [tokens]", ["only tokens", "match_only"]),
        ("arms: [{num_responses: 2}, {num_responses.k: 4}]\nmatch: [prompts]", ["only prompts"]),
        ("arms: [{num_responses: 2}]\nmatch: [prompts, prompts]", ["twice"]),
        ("arms: [{num_responses: 2}]\nmatch: [prompts]\nmatch_only: tokens", ["exclude"]),
        ("arms: [{num_responses: [2, 4]}]\nmatch_only: [tokens]", ["match_only"]),
        ("arms: [{objective: dpo}]\nmatch: [compute]", ["match"]),
        ("arms: [{objective: dpo}]\nseeds: [1, 1]", ["one seed twice"]),
        ("arms: [{objective: dpo}]\ntune: {trials: 0}", ["tune.trials"]),
        ("arms: [{objective: dpo}]\ntune: {trials: 2, by: reward/test}", ["tune.by"]),
        ("arms: [{objective: dpo}]\ntune: {trials: 2, seeds: [0]}\nseeds: [0, 1]", ["seed 0"]),
        ("arms: [{objective: dpo}]\ntune: {trials: 2, ranges: {training.lr: [1, 0.1]}}",
         ["training.lr", "above"]),
        ("arms: [{objective: dpo}]\nanalysis: {margin: -1}", ["analysis.margin"]),
        ("arms: [{objective: dpo}]\nanalysis: {row: objective}", ["analysis.row"]),
        ("arms: [{objective: dppo}]", ["dppo", "dpo"]),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_named(tmp_path: Path, text: str, told: list[str]) -> None:
    folder = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        expanded("+sweep=mine", folder=folder)
    for part in told:
        assert part in str(caught.value)


def test_a_sweep_whose_k_varies_by_the_command_line_names_what_it_matches() -> None:
    words = ["+sweep=objectives", "objective=rpo_bwd", "num_responses=2,4", "tune=false", "seed=0"]
    with pytest.raises(ConfigError, match="names nothing as equal"):
        expanded(*words)
    assert len(expanded(*words, "match=prompts,tokens").runs) == 4
    with pytest.raises(ConfigError, match="only prompts"):
        expanded("+sweep=num_responses", "match=prompts", "seed=0")
    one = expanded("+sweep=num_responses", "match_only=prompts", "tune=false", "seed=0")
    assert {label["match"] for label in one.labels} == {"prompts"}
    two = expanded("+sweep=paper", "match=prompts,responses", "tune=false", "seed=0")
    assert {label["match"] for label in two.labels} == {"prompts", "responses"}


def test_only_the_papers_table_is_matched_by_one_thing() -> None:
    alone = [name for name in SWEEPS if read_level("sweep", name).get("match_only")]
    assert alone == ["paper"]


def test_seeds_of_the_command_line_may_not_have_chosen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1000 choose the trials"):
        expanded("+sweep=objectives", "tune.trials=1", "seed=1000,1")


def test_a_world_without_ranges_is_told_what_to_write(tmp_path: Path) -> None:
    run = compose(["dataset=local", "dataset.path=x.jsonl"])
    with pytest.raises(ConfigError, match=r"conf/tuning/local\.yaml"):
        ranges_of(run, {}, [])
    assert ranges_of(run, {"training.lr": (1e-6, 1e-5)}, []) == {"training.lr": (1e-6, 1e-5)}
    folder = written(tmp_path, "common: {training.lr: [1.0e-6, 1.0e-5]}\n", "tuning", "local")
    assert ranges_of(run, {}, [str(folder)]) == {"training.lr": (1e-6, 1e-5)}
    written(tmp_path, "common: {training.lr: [0, 1.0e-5]}\n", "tuning", "local")
    with pytest.raises(ConfigError, match=r"no \[smallest, largest\]"):
        ranges_of(run, {}, [str(folder)])


@given(
    low=st.floats(1e-8, 1.0), factor=st.floats(1.0, 1e5), trials=st.integers(1, 12),
    key=st.integers(0, 99),
)  # fmt: skip
def test_draws_are_one_in_each_part_of_the_range(
    low: float, factor: float, trials: int, key: int
) -> None:
    values = [t["a"] for t in draw({"a": (low, low * factor), "b": (1.0, 2.0)}, trials, key)]
    # three significant digits may round past the end of a range
    assert all(low * 0.994 <= value <= low * factor * 1.006 for value in values)
    if factor > 1.2**trials:
        # far apart in comparison with the rounding: each part of the logarithm has one
        width = math.log(factor) / trials
        parts = sorted(int((math.log(v / low) + 0.006) / width) for v in values)
        assert all(abs(part - place) <= 1 for place, part in enumerate(parts))
    assert draw({"a": (low, low * factor)}, trials, key) == [{"a": value} for value in values]


def test_matching_holds_its_quantity_and_no_other() -> None:
    """Counts of what enters the loss, from the composed arms themselves."""
    base = ["objective=rpo_bwd", "collection=offline"]
    counted = {}
    for match in MATCHES:
        for k in (2, 4, 8):
            plain = compose([*base, f"num_responses={k}"])
            run = compose([*base, f"num_responses={k}", *matched(match, plain, 2, 8)])
            prompts = int(2048 * run.collection.round_prompts)
            visits = prompts * run.training.epochs
            counted[match, k] = {
                "prompts": prompts,
                "responses": visits * k,
                "steps": visits / run.training.batch_size,
                "labels": prompts * run.dataset.pool.num_responses,
            }
    for match in MATCHES:
        rows = [counted[match, k] for k in (2, 4, 8)]
        same = {name for name in rows[0] if len({row[name] for row in rows}) == 1}
        assert (
            same
            == {
                "prompts": {"prompts", "steps", "labels"},
                "responses": {"responses", "steps"},
                "labels": {"responses", "steps", "labels"},
                "tokens": {"prompts", "responses", "labels"},
            }[match]
        )


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    run = compose(["num_responses=6", "training.batch_size=64"])
    with pytest.raises(ConfigError, match="multiple of 3"):
        matched("responses", run, 2, 6)
