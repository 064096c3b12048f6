"""Data through whole runs: public sets, noisy labels, gold texts, over-long and ragged groups."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablate.config import legality
from ablate.config.compose import compose
from ablate.datasets.chat import load, render, why_better
from ablate.errors import ConfigError, DataError, ModelError
from ablate.models.tokenizer import encode_prompt, encode_response, load_tokenizer
from ablate.rewards.agreement import pair_accuracy
from ablate.stages.complete import complete
from ablate.stages.context import Context
from ablate.stages.execute import Execution
from ablate.stages.graph import plan
from ablate.stages.policy import select_groups
from ablate.stages.preflight import check_data
from ablate.store.files import read_json
from ablate.store.layout import Layout
from ablate.store.stages import StageStore
from smallrun import SMALL

GIVEN = [
    *(word for word in SMALL if not word.startswith(("dataset.", "evaluation."))),
    "dataset.pool.sampling.max_new_tokens=12", "evaluation.num_valid=4", "evaluation.num_test=4",
    "evaluation.num_ood=4", "num_responses=2", "reward=labels", "objective=dpo",
    "base_model.sft.steps=5",
]  # fmt: skip


class Done:
    """A finished run with the folders of its stages."""

    def __init__(self, store: Path, *words: str) -> None:
        self.config = compose([f"results_dir={store}", *words])
        legality.check(self.config)
        self.notes = check_data(self.config)
        self.layout = Layout(store)
        self.plan = plan(self.config, self.layout)
        self.store = StageStore(self.layout)

    def finish(self) -> dict[str, Any]:
        return complete(self.plan, self.layout).record.data

    def stage(self, name: str, role: str | None = None) -> Path:
        """The folder of a stage, computed if it is not there."""
        found = [s for s in self.plan.stages() if s.name == name and (role or s.role) == s.role]
        return Execution(self.store).ensure(found[0])

    def table(self, name: str, role: str | None = None) -> pd.DataFrame:
        return pd.read_parquet(self.stage(name, role) / f"{name}.parquet")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def hh_folder(folder: Path) -> Path:
    """HH-RLHF in small: every second dialogue has three turns, one answer is very long."""
    for part, count, topic in (("helpful-base/train", 60, "help"), ("helpful-base/test", 8, "test"),
                               ("harmless-base/test", 8, "harm")):  # fmt: skip
        rows = []
        for i in range(count):
            start = f"\n\nHuman: {topic} {i}?"
            if i % 2:
                start += f"\n\nAssistant: so {i}\n\nHuman: and?"
            rows.append({"chosen": f"{start}\n\nAssistant: good {i}",
                         "rejected": f"{start}\n\nAssistant: bad {i}"})  # fmt: skip
        if topic == "help":
            for i in range(0, count, 6):
                rows[i]["rejected"] += "x" * 600
            rows.append({**rows[0], "chosen": "\n\nHuman: TEST 0?\n\nAssistant: yes",
                         "rejected": "\n\nHuman: TEST 0?\n\nAssistant: no"})  # fmt: skip
        path = folder / f"{part}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, rows)
    return folder


def test_dialogues_of_hh_rlhf_go_through_a_whole_run(tmp_path: Path) -> None:
    words = [*GIVEN, "dataset=hh_rlhf", f"dataset.path={hh_folder(tmp_path / 'hh')}",
             "dataset.files.main=[helpful-base/train.jsonl]", "dataset.labels.flip_rate=0.25",
             "base_model.context_length=256"]  # fmt: skip
    done = Done(tmp_path / "store", *words)
    assert done.notes == ["prompts of train that also stand in test: 1"]
    data = done.finish()
    assert data["status"] == "done"
    assert set(data["metrics"]["reward"]) == {"valid", "test", "ood"}
    pool = done.table("pool", "train")
    several = pool["messages"].notna()
    assert several.any()
    assert not several.all()
    tokenizer = load_tokenizer(str(done.stage("sft", "sft") / "model"))
    for row in pool.itertuples():
        said = load(row.messages) if isinstance(row.messages, str) else row.prompt
        assert list(row.prompt_ids) == encode_prompt(tokenizer, said)
        assert row.prompt == render(said)
        assert list(row.response_ids) == encode_response(tokenizer, row.response)
    # the long answers leave their prompts with one response, which compares nothing
    assert not pool["response"].str.contains("xxx").any()
    told = read_json(done.stage("pool", "train") / "result.json")["data"]
    left_out = told["counts"]["responses too long, left out"]
    assert left_out == told["counts"]["prompts left with one response, left out"] > 0
    assert told["counts"]["prompts of train that also stand in test"] == 1
    assert set(told["origin"]["files"]) == {
        "helpful-base/train.jsonl", "helpful-base/test.jsonl", "harmless-base/test.jsonl",
    }  # fmt: skip
    recorded = next(s for s in data["stages"] if s["role"] == "pool/train")
    assert recorded["result"]["data"] == told
    # noise for training, none for the judge that measures
    labels = done.table("labels", "train")
    assert set(labels["clean"]) == {0.0, 1.0}
    assert "clean" not in done.table("labels", "judge")


def test_over_long_examples_may_be_cut_or_refused(tmp_path: Path) -> None:
    folder = hh_folder(tmp_path / "hh")
    words = [*GIVEN, "dataset=hh_rlhf", f"dataset.path={folder}", "dataset.lengths.max_tokens=100"]
    with pytest.raises(ModelError, match="over_long=drop"):
        Done(tmp_path / "store", *words, "dataset.lengths.over_long=error")
    cut = Done(tmp_path / "store", *words, "dataset.lengths.over_long=truncate")
    pool = cut.table("pool", "train")
    sizes = pool["prompt_ids"].map(len) + pool["response_ids"].map(len)
    assert sizes.max() == 100
    assert (sizes[~pool["finished"]] == 100).all()
    counts = read_json(cut.stage("pool", "train") / "result.json")["data"]["counts"]
    assert counts["responses cut"] == (~pool["finished"]).sum() > 0
    kept = Done(tmp_path / "store", *words)
    assert kept.plan.identity != cut.plan.identity


def test_prompts_too_long_to_be_answered_while_training_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{i}" + "?" * (90 if i % 4 == 0 else 0), "chosen": "good", "rejected": "bad",
         "split": split}
        for split, first, last in (("train", 0, 16), ("reward", 16, 40), ("judge", 40, 60),
                                   ("valid", 60, 68), ("test", 68, 76))
        for i in range(first, last)
    ]  # fmt: skip
    words = [*GIVEN, "dataset=local", f"dataset.path={write(tmp_path / 'long.jsonl', rows)}",
             "dataset.lengths.max_tokens=64", "dataset.pool.sampling.max_new_tokens=8",
             "dataset.pool.num_responses=2", "objective=rpo_bwd", "reward=explicit",
             "collection=online", "training.epochs=1", "training.batch_size=6",
             "collection.curve_every=1", "collection.curve_prompts=8"]  # fmt: skip
    with pytest.raises(ModelError, match="over_long=drop"):
        Done(tmp_path / "store", *words)
    done = Done(tmp_path / "store", *words, "dataset.lengths.over_long=drop")
    data = done.finish()
    trained = read_json(done.stage("policy") / "result.json")
    assert trained["groups"] == 12
    assert trained["unfit"] == {"prompts too long, left out": 4}
    # two of the eight prompts of the curve do not fit either
    points, steps = len(trained["curve"]), pd.read_parquet(done.stage("policy") / "train.parquet")
    assert trained["generated"]["responses"] == steps["responses"].sum() + 6 * points
    assert data["status"] == "done"


def test_ragged_groups_are_kept_and_told(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{i}", "responses": ["a", "bb", "ccc", "dddd"][: 2 + i % 3],
         "scores": [0, 1, 2, 3][: 2 + i % 3], "split": split}
        for split, first, last in (("train", 0, 24), ("test", 24, 30), ("judge", 30, 60),
                                   ("valid", 60, 64))
        for i in range(first, last)
    ]  # fmt: skip
    path = write(tmp_path / "ragged.jsonl", rows)
    words = [*GIVEN, "dataset=local", f"dataset.path={path}", "num_responses=4",
             "objective=rpo_bwd", "reward=gold"]  # fmt: skip
    done = Done(tmp_path / "store", *words)
    (note,) = done.notes
    assert note == ("16 of 24 training prompts have fewer than num_responses=4 responses "
                    "(the least: 2); they are kept as they are")  # fmt: skip
    data = done.finish()
    assert data["status"] == "done"
    trained = read_json(done.stage("policy") / "result.json")
    assert trained["groups"] == 24
    assert trained["responses"] == 8 * (2 + 3 + 4)


def gold_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"q{i}?", "chosen": f"good {i}", "rejected": f"bad {i}", "gold": f"best {i}",
         "rationale": f"{i} is better"}
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("objective", ["tpo_triple", "rationale_dpo"])
def test_a_column_of_the_file_reaches_the_loss(objective: str, store: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "gold.jsonl", gold_rows(60))
    words = [*GIVEN, "dataset=local", f"dataset.path={path}", f"objective={objective}"]
    done = Done(store, *words)
    stage = done.plan.evaluation.inputs["policy"]
    inputs = {role: done.stage(needed.name, needed.role) for role, needed in stage.inputs.items()}
    groups, *_ = select_groups(
        Context(stage.params, inputs, tmp_path, done.config, lambda *_: None, lambda *_: None)
    )
    tokenizer = load_tokenizer(str(inputs["init"] / "model"))
    pool = done.table("pool", "train").set_index("prompt_id")
    for group in groups:
        prompt = str(pool.loc[group.prompt_id, "prompt"].iloc[0])
        number = prompt.removeprefix("q").removesuffix("?")
        if objective == "tpo_triple":
            assert group.gold_ids == encode_response(tokenizer, f"best {number}")
            assert group.rationale_ids is None
        else:
            assert group.rationale_ids == encode_response(tokenizer, f"{number} is better")
            question = why_better(prompt, f"good {number}", f"bad {number}")
            assert group.rationale_prompt_ids == encode_prompt(tokenizer, question)
            assert group.gold_ids is None
    data = done.finish()
    assert data["status"] == "done"


def test_a_missing_gold_response_is_told_before_any_work(store: Path, tmp_path: Path) -> None:
    rows = gold_rows(60)
    for row in rows[:30]:
        del row["gold"]
    path = write(tmp_path / "gold.jsonl", rows)
    words = [*GIVEN, "dataset=local", f"dataset.path={path}"]
    with pytest.raises(DataError, match=r"objective=tpo_triple needs a gold .* have none. Fill"):
        Done(store, *words, "objective=tpo_triple")
    # who does not ask for it is not kept from training
    assert Done(store, *words).finish()["status"] == "done"
    assert Done(store, *words, "objective=rationale_dpo").notes == []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for the runs in the embedded world: they share the SFT policy."""
    return tmp_path_factory.mktemp("world")


NOISY = ["dataset.labels.flip_rate=0.2", "dataset.labels.temperature=1.0"]


def test_gold_stays_exact_where_labels_are_noisy(world: Path) -> None:
    clean = Done(world, *SMALL, "reward=gold")
    noisy = Done(world, *SMALL, "reward=gold", *NOISY)
    ordered = Done(world, *SMALL, "reward=labels", "objective=dpo", *NOISY)
    before, after = clean.table("labels"), noisy.table("labels")
    assert list(before.columns) == ["prompt_id", "index", "label"]
    assert np.array_equal(before["label"], after["clean"])
    assert not np.array_equal(after["label"], after["clean"])
    pd.testing.assert_frame_equal(clean.table("scores"), noisy.table("scores"))
    assert np.array_equal(ordered.table("scores")["raw"], after["label"])
    told = read_json(noisy.stage("labels") / "result.json")
    prompts = after["prompt_id"].to_numpy()
    agreement = pair_accuracy(after["label"].to_numpy(), after["clean"].to_numpy(), prompts)
    assert told["agrees_with_clean"] == pytest.approx(agreement)
    assert 0.5 < agreement < 0.95
    other = Done(world, *SMALL, "reward=gold", *NOISY, "seed=1")
    assert other.plan.identity != noisy.plan.identity


def test_a_larger_pool_extends_the_noisy_labels_of_a_smaller_one(world: Path) -> None:
    more = [word for word in SMALL if not word.startswith("dataset.pool")]
    noise = [*NOISY, "dataset.labels.length_bias=0.5"]
    small = Done(world, *SMALL, *noise).table("labels")
    large = Done(world, *more, "dataset.pool.num_responses=6", *noise).table("labels")
    both = small.merge(large, on=["prompt_id", "index"], suffixes=("", "_large"))
    assert len(both) == len(small)
    prompts = both["prompt_id"].to_numpy()
    labels, larger = both["label"].to_numpy(), both["label_large"].to_numpy()
    assert pair_accuracy(labels, larger, prompts) == 1.0


def test_annotators_leave_a_column_each_and_their_shares(world: Path) -> None:
    groups = ("dataset.labels.annotators=[{name: plain, share: 1, length: 0, nuisance: 0, "
              "taste: 0}, {name: showy, share: 1, length: 0, nuisance: 3, taste: 0}]")  # fmt: skip
    done = Done(world, *SMALL, groups)
    labels = done.table("labels")
    assert np.allclose(labels["label_plain"], labels["clean"])
    assert not np.allclose(labels["label_showy"], labels["clean"])
    own = np.where(labels["annotator"] == "plain", labels["label_plain"], labels["label_showy"])
    assert np.array_equal(labels["label"], own)
    told = read_json(done.stage("labels") / "result.json")
    assert told["annotators"] == {"plain": 0.5, "showy": 0.5}
    with pytest.raises(ConfigError, match=r"free text: which of its words are for show"):
        Done(world, "dataset=local", "dataset.path=x.jsonl", groups)
    with pytest.raises(ConfigError, match="two groups of one name"):
        Done(world, *SMALL, groups.replace("showy", "plain"))
