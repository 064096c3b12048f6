"""Compacted copies say what the store says: rows, tables, newer runs, damage, copies to hand on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.analysis import Question, build
from ablate.cli.main import run
from ablate.cli.stored import find_record
from ablate.errors import StoreError
from ablate.metrics import win_rate
from ablate.results import (
    TABLES,
    load,
    load_curve,
    load_eval,
    load_pairs,
    load_study,
    load_train,
    read_answers,
)
from ablate.results.compact import compact, opened
from ablate.results.frames import read_frame, write_frame
from ablate.results.tables import run_tables
from ablate.store import files, records
from ablate.store.layout import Layout
from madestore import answers, config_of, freeze, put

PAIRS = pd.DataFrame(
    {"split": ["train", "test"], "prompt_id": ["a", "b"], "logp_policy_chosen": [-1.0, -3.0],
     "logp_policy_rejected": [-2.0, -2.0], "logp_ref_chosen": [-1.0, -1.0],
     "logp_ref_rejected": [-1.0, -1.0], "num_tokens_chosen": [3, 3],
     "num_tokens_rejected": [3, 3]}
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three runs: a usual one, one without scores and with pairs, one that diverged."""
    root = tmp_path / "store"
    put(root, answers(5.0, 0), objective="dpo", seed=0, objective__betas=[0.1, 0.2])
    bare = answers(5.5, 1).drop(columns="train_reward")
    put(root, bare, objective="ipo", seed=0, pairs=PAIRS, curve=pd.DataFrame({"step": [0, 5]}))
    put(root, answers(4.0, 2), objective="kto", seed=0, status="diverged")
    return root


def same(one: pd.DataFrame, two: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, two[one.columns.tolist()], check_dtype=False)
    assert set(one.columns) == set(two.columns)


def test_a_compacted_store_loads_as_before(root: Path) -> None:
    before = [load(root), load_eval(root), load_train(root), load_pairs(root)]
    one = load_eval(root, [load(root)["id"][1]], ["prompt_id", "judge_score"], "ood")
    done = compact(Layout(root), TABLES)
    assert (done.runs, done.damaged) == (3, [])
    held = opened(Layout(root))
    assert held is not None
    assert held.tables == {"eval.parquet", "train.parquet", "curve.parquet", "pairs.parquet"}
    after = [load(root), load_eval(root), load_train(root), load_pairs(root)]
    for was, now in zip(before, after, strict=True):
        same(was, now)
    (part,) = run_tables(load(root), "eval.parquet")
    assert not part.own, "the answers come from the compacted copy"
    same(one, load_eval(root, [load(root)["id"][1]], ["prompt_id", "judge_score"], "ood"))
    assert load(root)["config.objective.betas"].tolist()[0] == [0.1, 0.2]


def test_a_small_copy_holds_every_record_and_the_answers_of_some(
    root: Path, tmp_path: Path
) -> None:
    frame, table = load(root), load_eval(root)
    first, second = frame["id"][:2]
    target = Layout(tmp_path / "small")
    done = compact(Layout(root), TABLES, target=target, whole={first}, single=True)
    assert done.runs == 3
    same(frame.drop(columns="path"), load(target.root).drop(columns="path"))
    kept = load_eval(target.root)
    assert set(kept["id"]) == {first}
    mine = table[table["id"] == first].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, mine, check_dtype=False, rtol=1e-6)
    assert kept["logp_policy"].dtype == np.float32
    # compacted again from the copy, with fewer still
    compact(target, TABLES, target=Layout(tmp_path / "none"), whole={second})
    assert len(load_eval(tmp_path / "none")) == 0
    assert len(load(tmp_path / "none")) == 3


def test_a_win_rate_from_a_small_copy_is_that_of_the_record(root: Path, tmp_path: Path) -> None:
    """Scores that differ by less than single precision can tell are no ties there."""
    close = answers(5.0, 3)
    close["judge_score"] = close["baseline_score"] + np.where(close.index % 3 == 0, 1e-9, -1e-9)
    put(root, close, objective="simpo", seed=0)
    target = Layout(tmp_path / "small")
    compact(Layout(root), TABLES, target=target, single=True)
    frame = load(target.root).set_index("objective")
    answered = load_eval(target.root, [frame.at["simpo", "id"]], split="test")
    again = win_rate(
        *(answered[c].to_numpy() for c in ("judge_score", "baseline_score", "prompt_id"))
    )
    assert again.mean == frame.at["simpo", "win_rate/test"] == pytest.approx(1 / 3)


def test_a_copy_of_one_split_keeps_the_measures_of_all(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "test"
    words = ["compact", "--to", str(target), "--split", "test", f"results_dir={root}"]
    assert run(words) == 0
    whole = load_eval(root)
    assert set(whole["split"]) > {"test"}
    kept = whole[whole["split"] == "test"].reset_index(drop=True)
    pd.testing.assert_frame_equal(load_eval(target), kept, check_dtype=False)
    assert load_pairs(target)["split"].tolist() == ["test"]
    for read in (load_train, load_curve):
        pd.testing.assert_frame_equal(read(target), read(root), check_dtype=False)
    same(load(root).drop(columns="path"), load(target).drop(columns="path"))
    metrics = ("reward/ood", "win_rate_baseline/test")
    question = Question(rows=("objective",), metrics=metrics, baseline="dpo")
    made, before = (build(load(where), pd.DataFrame(), question) for where in (target, root))
    assert len(made.entries) == 6
    assert repr(made.entries) == repr(before.entries)


def test_what_changed_after_compacting_is_read_from_the_store(root: Path) -> None:
    compact(Layout(root), TABLES)
    first = load(root).iloc[0]
    put(root, answers(6.0, 5), objective="simpo", seed=1)
    again = answers(7.0, 9)
    put(root, again, objective="dpo", seed=0, objective__betas=[0.1, 0.2])
    shutil.rmtree(root / "runs" / load(root)["id"][2])
    frame = load(root).set_index("id")
    assert len(frame) == 3
    assert frame.at[first["id"], "revision"] == 2
    table = load_eval(root)
    assert table.groupby("id")["judge_score"].mean().to_dict() == pytest.approx(
        {i: pd.read_parquet(Path(row["path"]) / "eval.parquet")["judge_score"].mean()
         for i, row in frame.iterrows()}
    )  # fmt: skip
    assert list(dict.fromkeys(table["id"])) == frame.index.tolist(), "in the order of the runs"


def test_a_copy_stands_alone(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = load(root)
    configs = [config_of(objective=name) for name in ("dpo", "ipo", "simpo")]
    freeze(root, configs, [*frame["id"][:2], "f" * 32], "mine")
    records.write_failure(records.new_attempt(Layout(root), "f" * 32), "x", "out of memory", None)
    target = tmp_path / "handed" / "on"
    words = ["compact", "--to", str(target), "--sweep", "mine", f"results_dir={root}"]
    assert run(words) == 0
    shutil.rmtree(root)
    study = load_study(target, "mine")
    assert study.frame["objective"].tolist() == ["dpo", "ipo"]
    assert study.lacking[["objective", "state", "reason"]].to_numpy().tolist() == [
        ["simpo", "failed", "out of memory"]
    ]
    assert len(read_answers(study.frame["path"][0])) == 36
    made = build(study.frame, study.lacking, Question(metrics=("repetition", "ranking_accuracy")))
    assert np.isnan(made.entries[("dpo",), (), "ranking_accuracy/test"].mean)
    assert made.entries[("ipo",), (), "ranking_accuracy/test"].mean == 0.0
    held = opened(Layout(target))
    assert held is not None
    record = held.record(study.frame["id"][0])
    assert record.data["provenance"]["host"] is None
    assert record.data["provenance"]["scheduler"] is None
    assert "somewhere" not in json.dumps(record.data)
    handed_on = b"".join(path.read_bytes() for path in target.rglob("*") if path.is_file())
    assert str(root).encode() not in handed_on
    assert record.data["config"]["results_dir"] == study.frame["config.results_dir"][0] == "results"
    capsys.readouterr()
    one, other = study.frame["id"]
    assert run(["ls", f"results_dir={target}"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith(one[:12])]
    assert run(["status", f"results_dir={target}"]) == 1
    assert "2 done, 1 failed" in capsys.readouterr().out
    with pytest.raises(StoreError, match="no run"):
        find_record(Layout(target), "0" * 12)
    assert find_record(Layout(target), other[:12]).data["id"] == other
    # runs that are made there later stand beside it, and compacting takes them in
    put(target, answers(6.0, 5), objective="simpo", seed=1)
    assert len(load(target)) == 3
    assert run(["compact", f"results_dir={target}"]) == 0
    assert sorted(load(target)["objective"]) == ["dpo", "ipo", "simpo"]
    assert load_eval(target).groupby("id").size().tolist() == [36, 36, 36]


def test_damage_is_named_and_left_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = load(root)
    path = Path(frame["path"][1]) / "eval.parquet"
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    assert run(["compact", f"results_dir={root}"]) == 3
    captured = capsys.readouterr()
    assert frame["id"][1][:12] in captured.err
    assert "2 runs" in captured.out
    held = opened(Layout(root))
    assert held is not None
    (held.folder / "runs.parquet").write_bytes(b"PAR1")
    opened.__globals__["_open"].cache_clear()
    with pytest.raises(StoreError, match="checksum"):
        load(root)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sweep", "mine"], "need --to"),
        (["--to", "{root}"], "the store itself"),
        (["--without", "x"], "invalid choice"),
        (["--to", "x", "--sweep", "nope"], "no sweep 'nope'"),
    ],
)
def test_mistakes(
    root: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert run(["compact", *(w.format(root=root) for w in words), f"results_dir={root}"]) == 2
    assert told in capsys.readouterr().err


def test_nothing_to_compact_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no finished run"):
        compact(Layout(tmp_path), TABLES)


def test_frames_of_mixed_columns_come_back(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"mixed": [1, "a", None, [1, 2], True, np.nan], "number": [1.5, np.nan, 2, 3, 4, 5],
         "flag": [True] * 6, "whole": range(6), "text": list("aabbcc")}
    )  # fmt: skip
    write_frame(frame, tmp_path / "x.parquet")
    found = read_frame(tmp_path / "x.parquet")
    assert found["mixed"].tolist()[:5] == [1, "a", None, [1, 2], True]
    assert np.isnan(found["mixed"].tolist()[5])
    same(frame.drop(columns="mixed"), found.drop(columns="mixed"))


def older(path: Path, **changes: object) -> None:
    """Rewrites a record as an earlier schema would have it, checksums included."""
    data = json.loads((path / "record.json").read_text())
    data["metrics"].pop("kl_reference", None)
    files.write_json(path / "record.json", {**data, **changes})
    files.write_manifest(path)


def test_records_of_an_older_schema_are_migrated_when_read(root: Path) -> None:
    path = Path(load(root)["path"][0])
    stages = [
        {"role": name, "name": name, "id": str(tokens), "result": {"generated": {"tokens": tokens}}}
        for name, tokens in (("pool", 50), ("evaluation", 7))
    ]
    stages.append({"role": "labels", "name": "labels", "id": "1", "result": {}})
    older(path, schema=1, tokens_generated=7, stages=stages)
    before = (path / "record.json").read_bytes()
    row = load(root).iloc[0]
    assert row["tokens_generated"] == 57
    assert row["kl_reference/test"] == row["kl/test"]
    assert (path / "record.json").read_bytes() == before, "reading changes nothing"
    stages[0]["result"] = {}
    older(path, schema=1, tokens_generated=7, stages=stages)
    assert pd.isna(load(root).iloc[0]["tokens_generated"]), "a stage did not count"


def test_a_schema_of_the_future_is_refused_with_the_command_that_reads_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older(Path(load(root)["path"][0]), schema=99)
    assert run(["table", f"results_dir={root}"]) == 3
    told = capsys.readouterr().err
    assert f"git checkout {'c' * 40} && python -m ablate table" in " ".join(told.split())
