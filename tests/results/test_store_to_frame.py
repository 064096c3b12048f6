"""From the store to frames: damage skipped and named, sweeps with what they lack."""

import json
from pathlib import Path

import pandas as pd
import pytest

from ablate.analysis.measure import measure
from ablate.errors import StoreError
from ablate.results import load, load_eval, load_study, read_answers, read_runs
from ablate.results.tables import read_tables
from ablate.store import records
from ablate.store.layout import Layout
from madestore import answers, config_of, freeze, put


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_columns_tell_settings_metrics_and_stages(root: Path) -> None:
    record = put(root, answers(5.0, 1), objective="ipo", objective__beta=0.3, seed=2)
    (row,) = load(root).to_dict("records")
    assert (row["objective"], row["config.objective.beta"], row["seed"]) == ("ipo", 0.3, 2)
    assert row["reward/test"] == record.data["metrics"]["reward"]["test"]["mean"]
    assert row["reward/test/n"] == 12
    assert row["stage.answers"] == record.data["stages"][0]["id"]
    assert row["reward.scale"] == 1.0


def spoil_json(path: Path) -> None:
    path.write_text(path.read_text()[:50])


def spoil_number(path: Path) -> None:
    data = json.loads(path.read_text())
    data["metrics"]["reward"]["test"]["mean"] += 1
    path.write_text(json.dumps(data))


def remove_manifest(path: Path) -> None:
    (path.parent / "manifest.json").unlink()


def of_the_future(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(spoil_json, "cannot be read"), (spoil_number, "checksum"), (remove_manifest, "manifest"),
     (of_the_future, "schema 99")],
)  # fmt: skip
def test_a_damaged_record_is_left_out_and_named(root: Path, spoil: object, told: str) -> None:
    good, bad = (put(root, answers(5.0, seed), seed=seed) for seed in (0, 1))
    spoil(bad.path / "record.json")  # type: ignore[operator]
    runs = read_runs(root)
    assert runs.frame["id"].tolist() == [good.identity]
    (damaged,) = runs.damaged
    assert damaged.identity == bad.identity
    assert told in damaged.reason
    with pytest.warns(UserWarning, match=bad.short):
        assert len(load(root)) == 1


def test_a_damaged_table_of_answers_is_an_error_by_name(root: Path) -> None:
    record = put(root, answers(5.0, 0))
    assert len(load_eval(root)) == 36
    path = record.path / "eval.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="checksum"):
        read_answers(record.path)
    with pytest.raises(StoreError, match=r"eval\.parquet"):
        load_eval(root)


def test_a_sweep_knows_what_it_asked_for_and_what_is_lacking(root: Path) -> None:
    done = put(root, answers(5.0, 0), objective="dpo", seed=0)
    configs = [config_of(objective=name, seed=0) for name in ("dpo", "ipo", "kto")]
    ids = [done.identity, "f" * 32, "e" * 32]
    freeze(root, configs, ids, "mine")
    put(root, answers(5.0, 0), objective="simpo", seed=0)
    layout = Layout(root)
    for number in ("first", "last"):
        records.write_failure(records.new_attempt(layout, ids[1]), "ipo", number, None)
    study = load_study(root, "mine")
    assert study.frame["id"].tolist() == [done.identity], "the run of no sweep is not among them"
    lacking = study.lacking.set_index("objective")
    assert lacking["state"].to_dict() == {"ipo": "failed", "kto": "missing"}
    assert lacking.loc["ipo", "reason"] == "last"
    whole = load_study(root)
    assert len(whole.frame) == 2
    assert whole.lacking["state"].tolist() == ["failed"]


def test_a_name_stands_for_every_sweep_started_by_it(root: Path) -> None:
    kept = [put(root, answers(5.0, seed), seed=seed) for seed in (0, 1)]
    for seed, record in enumerate(kept):
        freeze(root, [config_of(seed=seed)], [record.identity], "mine")
    assert len(load_study(root, "mine").frame) == 2
    folder = next(Layout(root).sweeps.iterdir())
    assert len(load_study(root, folder.name[:8]).frame) == 1
    with pytest.raises(StoreError, match=r"no sweep 'other'.*mine"):
        load_study(root, "other")


def test_what_a_sweep_fixed_about_its_table_is_read_back(root: Path) -> None:
    record = put(root, answers(5.0, 0))
    freeze(root, [config_of()], [record.identity], "mine")
    path = next(Layout(root).sweeps.glob("*/sweep.json"))
    content = json.loads(path.read_text())
    content["overrides"] += ["analysis.rows=objective,num_responses", "analysis.margin=0.25"]
    path.write_text(json.dumps(content))
    fixed = load_study(root, "mine").settings
    assert fixed == {"rows": ["objective", "num_responses"], "margin": "0.25"}


def test_an_empty_store_is_an_empty_frame(root: Path) -> None:
    root.mkdir()
    study = load_study(root)
    assert isinstance(study.frame, pd.DataFrame)
    assert study.frame.empty
    assert study.lacking.empty
    with pytest.raises(StoreError, match="no results folder"):
        load_study(root / "nowhere")


def test_a_run_that_stands_for_two_arms_is_read_once(root: Path) -> None:
    """A study of K has a row of it for each match: its answers must not count twice."""
    first, second = (
        put(root, answers(mean, 1), objective=name) for mean, name in ((5.0, "dpo"), (6.0, "ipo"))
    )
    once = load(root)
    once["partner"] = [first.identity if i == second.identity else None for i in once["id"]]
    twice = pd.concat([once, once], ignore_index=True)
    assert len(read_tables(twice, "eval.parquet")) == len(read_tables(once, "eval.parquet"))
    for column in ("repetition/test", "win_rate_baseline/test"):
        alone, both = (measure(frame, column).set_index("id") for frame in (once, twice))
        for name in (column, f"{column}/se", f"{column}/n"):
            assert (
                both.loc[second.identity, name].tolist() == [alone.loc[second.identity, name]] * 2
            )
