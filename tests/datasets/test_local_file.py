"""Local preference files: what is read, into which split, and every way a file can be wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ablate.config.dataset import LocalConfig
from ablate.config.levels import read_level
from ablate.datasets import LocalDataset, PreferenceDataset, open_dataset
from ablate.errors import ConfigError, DataError

Rows = list[dict[str, Any]]
Write = Callable[..., Path]


def config(path: Path, **values: Any) -> LocalConfig:
    plain = read_level("dataset", "local") | {"path": str(path), "judge_share": 0.0}
    plain |= values
    return LocalConfig.model_validate(plain)


def load(path: Path, **values: Any) -> LocalDataset:
    dataset = open_dataset(config(path, **values))
    assert isinstance(dataset, LocalDataset)
    return dataset


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(rows: Rows | str, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        if isinstance(rows, str):
            path.write_text(rows)
        elif path.suffix == ".parquet":
            pd.DataFrame(rows).to_parquet(path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return to_file


def pairs(count: int, **more: Any) -> Rows:
    return [
        {"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}", **more}
        for i in range(count)
    ]


GROUPS: Rows = [
    {"prompt": "a", "responses": ["a0", "a1", "a2"], "scores": [0.5, 2, -1], "split": "train"},
    {"prompt": "b", "responses": ["b0", "b1"], "scores": [3.0, 3.0], "split": "train"},
    {"prompt": "c", "responses": ["c0", "c1"], "scores": [0, 1], "split": "valid"},
]


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_groups_keep_their_scores_order_and_raggedness(name: str, write: Write) -> None:
    dataset = load(write(GROUPS, name))
    assert isinstance(dataset, PreferenceDataset)
    first, second = dataset.prompts("train")
    assert (first.text, second.text) == ("a", "b")
    given = [(r.prompt_id, r.index, r.text, r.score) for r in dataset.responses("train")]
    assert given == [
        (first.id, 0, "a0", 0.5),
        (first.id, 1, "a1", 2.0),
        (first.id, 2, "a2", -1.0),
        (second.id, 0, "b0", 3.0),
        (second.id, 1, "b1", 3.0),
    ]
    assert dataset.response_counts("train") == {first.id: 3, second.id: 2}
    assert [p.text for p in dataset.prompts("valid")] == ["c"]
    assert dataset.prompts("ood") == []
    assert dataset.has_scores
    # the best response of each training prompt, the first of equals
    assert [(p.text, r) for p, r in dataset.demonstrations()] == [("a", "a1"), ("b", "b0")]


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_pairs_become_one_and_nought_in_the_split_of_their_prompt(name: str, write: Write) -> None:
    rows = pairs(200)
    dataset = load(write(rows, name))
    sizes = {s: len(dataset.prompts(s)) for s in ("reward", "judge", "valid", "test", "train")}
    assert sizes == {"reward": 40, "judge": 0, "valid": 10, "test": 10, "train": 140}
    for split in ("reward", "valid", "test", "train"):
        scores = {(r.text.split()[0], r.score) for r in dataset.responses(split)}
        assert scores == {("good", 1.0), ("bad", 0.0)}
    texts = [p.text for s in sizes for p in dataset.prompts(s)]
    assert sorted(texts) == sorted(row["prompt"] for row in rows)
    assert not dataset.has_scores
    assert all(text.startswith("good") for _, text in dataset.demonstrations())
    assert dataset.prompts("sft") == dataset.prompts("train")


def test_the_order_of_the_rows_does_not_move_prompts_between_splits(write: Write) -> None:
    rows = pairs(50)
    one = load(write(rows, "one.jsonl"))
    other = load(write(rows[::-1], "other.jsonl"))
    for split in ("reward", "valid", "test", "train"):
        assert {p.id for p in one.prompts(split)} == {p.id for p in other.prompts(split)}


def test_a_short_file_still_fills_every_split_with_a_share(write: Write) -> None:
    dataset = load(write(pairs(4)))
    assert [len(dataset.prompts(s)) for s in ("reward", "valid", "test", "train")] == [1, 1, 1, 1]
    with pytest.raises(DataError, match=r"no row is left for the split 'train'.*3 rows"):
        load(write(pairs(3)))


def test_two_rows_with_one_prompt_are_two_groups_of_one_split(write: Write) -> None:
    rows = [*pairs(40), {"prompt": "question 7", "chosen": "better", "rejected": "good 7"}]
    dataset = load(write(rows))
    splits = [s for s in ("reward", "valid", "test", "train") for p in dataset.prompts(s)
              if p.text == "question 7"]  # fmt: skip
    assert len(splits) == 2
    assert len(set(splits)) == 1
    ids = [p.id for s in ("reward", "valid", "test", "train") for p in dataset.prompts(s)]
    assert len(set(ids)) == 41


def test_demonstrations_come_from_rows_of_sft_where_there_are_any(write: Write) -> None:
    rows = [*GROUPS, {"prompt": "d", "responses": ["d0", "d1"], "scores": [1, 0], "split": "sft"}]
    assert [r for _, r in load(write(rows)).demonstrations()] == ["d0"]


def test_a_second_file_is_out_of_distribution_whatever_it_says(write: Write) -> None:
    ood = write([{**row, "prompt": "other " + row["prompt"]} for row in GROUPS], "ood.jsonl")
    dataset = load(write(GROUPS), ood_path=str(ood))
    assert [p.text for p in dataset.prompts("ood")] == ["other a", "other b", "other c"]
    assert len(dataset.prompts("train")) == 2


def test_identity_is_content_and_shares_and_not_the_place(write: Write, tmp_path: Path) -> None:
    path = write(pairs(30))
    copy = tmp_path / "elsewhere" / "renamed.jsonl"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    assert load(path).identity() == load(copy, name="mine").identity()
    assert load(path).identity() != load(path, valid_share=0.2).identity()
    assert load(path).identity("train") != load(path).identity("test")
    assert load(path).identity() != load(path, ood_path=str(write(GROUPS, "o.jsonl"))).identity()
    assert load(path).identity() != load(write(pairs(31), "more.jsonl")).identity()


def test_a_file_has_no_judge(write: Write) -> None:
    dataset = load(write(GROUPS))
    assert not dataset.has_judge
    with pytest.raises(DataError, match="judge=preference"):
        dataset.judge(dataset.prompts("train")[0], "a0")
    with pytest.raises(DataError, match="judge=preference"):
        dataset.judge_identity()


def group(**values: Any) -> Rows:
    return [GROUPS[1], {**GROUPS[0], **values}]


def without(name: str) -> Rows:
    return [{key: value for key, value in row.items() if key != name} for row in GROUPS]


BAD: list[tuple[Rows | str, str]] = [
    ("", "the file is empty"),
    ("\n\n", "the file is empty"),
    ('{"prompt": "a"\n', "row 1: .* at column"),
    ('\n{"prompt": "a", "chosen": "x", "rejected": "y"}\n[1]\n', "row 3: a JSON object is needed"),
    (without("scores"), "lacks the column scores. Found: prompt, responses, split. Needed: prompt"),
    ([{"question": "a"}], "lacks the columns prompt, chosen, rejected. Found: question"),
    (group(scores=[1, float("nan"), 0]), r"row 2: scores\[1\] is nan"),
    (group(scores=[1, 0, float("-inf")]), r"row 2: scores\[2\] is -inf"),
    (group(scores=[1, 0]), "row 2: 3 responses but 2 scores"),
    (group(responses=["a"], scores=[1]), r"row 2: 1 response\(s\); at least 2"),
    (group(scores=["1", "0", "0"]), r"row 2: scores\[0\] must be a number, not a string"),
    (group(scores=[True, False, False]), r"row 2: scores\[0\] must be a number, not a bool"),
    (group(scores=1.0), "row 2: scores must be a list, not a float"),
    (group(responses="a b"), "row 2: responses must be a list, not a string"),
    (group(responses=["a", " ", "c"]), r"row 2: responses\[1\] is empty"),
    (group(prompt=""), "row 2: prompt is empty"),
    (group(prompt=[{"role": "user"}]), "row 2: prompt: message 0 must have a role and"),
    (group(prompt=None), "row 2: no prompt"),
    (group(split="dev"), "row 2: unknown split 'dev'; the splits are sft, reward"),
    ([GROUPS[0], {**GROUPS[0], "split": "test"}], "no row is left for the split 'train'"),
    ([{**GROUPS[0], "split": "valid"}], "no row is left for the split 'train'"),
]


@pytest.mark.parametrize(("rows", "message"), BAD)
def test_a_bad_file_is_refused_with_its_name_and_rows(
    rows: Rows | str, message: str, write: Write
) -> None:
    path = write(rows)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_parquet_files_are_checked_alike(write: Write, tmp_path: Path) -> None:
    rows = group(scores=[1.0, float("nan"), 0.0])
    # pandas turns NaN into null, pyarrow keeps it
    with pytest.raises(DataError, match=r"row 2: scores\[1\] is missing or NaN"):
        load(write(rows, "null.parquet"))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "nan.parquet")
    with pytest.raises(DataError, match=r"row 2: scores\[1\] is nan"):
        load(tmp_path / "nan.parquet")
    with pytest.raises(DataError, match=r"lacks the column rejected. Found: prompt, chosen"):
        load(write([{"prompt": "a", "chosen": "b"}], "lacks.parquet"))
    with pytest.raises(DataError, match="not a readable Parquet file"):
        load(write("no parquet", "fake.parquet"))
    empty = tmp_path / "empty.parquet"
    pd.DataFrame({"prompt": [], "chosen": [], "rejected": []}).to_parquet(empty)
    with pytest.raises(DataError, match="the file is empty"):
        load(empty)


def test_many_bad_rows_are_counted_and_the_first_shown(write: Write) -> None:
    with pytest.raises(DataError, match=r"row 1: .*row 5: chosen is empty; and 15 more$"):
        load(write(pairs(20, chosen="")))


def test_places_that_are_no_preference_file(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.jsonl: no such file; set dataset.path"):
        load(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"unknown kind of file '.csv'; use .jsonl or .parquet"):
        load(write("prompt,chosen", "data.csv"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "\xe9"}\n')
    with pytest.raises(DataError, match="row 2 is not UTF-8"):
        load(tmp_path / "latin.jsonl")
    with pytest.raises(DataError, match=r"ood.jsonl: no such file; set dataset.ood_path"):
        load(write(GROUPS), ood_path=str(tmp_path / "ood.jsonl"))


def test_a_training_prompt_that_stands_in_another_file_leaves_training(write: Write) -> None:
    ood = write(GROUPS[:1], "ood.jsonl")
    dataset = load(write(GROUPS), ood_path=str(ood))
    assert [p.text for p in dataset.prompts("ood")] == ["a"]
    assert [p.text for p in dataset.prompts("train")] == ["b"]
    assert dataset.cleaning() == {"prompts of train that also stand in ood": 1}


def test_shares_must_leave_something_to_train_on(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"add up to 1\.1 .*reward_share=0\.5.*under 1"):
        load(write(pairs(20)), reward_share=0.5, valid_share=0.3, test_share=0.3)


def test_a_file_of_two_forms_is_told_so_with_the_rows_of_each(write: Write) -> None:
    with pytest.raises(DataError) as error:
        load(write([*GROUPS, *pairs(7)]))
    said = str(error.value)
    assert "mixes two forms" in said
    assert "rows 1, 2, 3, chosen and rejected in rows 4, 5, 6, 7, 8 and 2 more" in said


def test_a_row_with_the_columns_of_both_forms_is_a_group(write: Write) -> None:
    both = [{**row, "chosen": "x", "rejected": "y"} for row in GROUPS]
    assert load(write(both)).response_counts("valid").popitem()[1] == 2


def test_responses_that_are_not_used_are_counted_and_change_no_identity_but_by_the_limit(
    write: Write,
) -> None:
    pool = read_level("dataset", "local")["pool"]
    path = write(GROUPS)
    whole, cut = load(path), load(path, pool=pool | {"num_responses": 2})
    assert whole.cleaning() == {}
    assert cut.cleaning() == {"responses beyond dataset.pool.num_responses": 1}
    assert cut.identity() == whole.identity() | {"most_responses": 2}
