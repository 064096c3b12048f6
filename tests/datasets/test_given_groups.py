"""Groups that come with a dataset: prompts apart, doubles merged, messages and extra columns."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.config.dataset import LocalConfig
from ablate.config.levels import read_level
from ablate.datasets import SPLITS, LocalDataset
from ablate.datasets.chat import normalised
from ablate.datasets.given import PRECEDENCE, GivenDataset
from ablate.datasets.tables import Row

Rows = list[dict[str, Any]]
CONFIG = LocalConfig.model_validate(read_level("dataset", "local") | {"path": "x.jsonl"})


def load(path: Path, rows: Rows, **values: Any) -> LocalDataset:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LocalDataset(CONFIG.model_copy(update={"path": str(path), **values}))


SPELLINGS = [str.upper, str.lower, str.title, lambda t: f"  {t} ", lambda t: t.replace(" ", "\n")]
rows_strategy = st.lists(
    st.tuples(
        st.integers(0, 12), st.sampled_from(range(len(SPELLINGS))), st.sampled_from([None, *SPLITS])
    ),
    min_size=1,
    max_size=60,
)


@given(rows_strategy)
@settings(max_examples=150, deadline=None)
def test_no_prompt_stands_in_two_splits_and_none_is_lost(
    drawn: list[tuple[int, int, str | None]],
) -> None:
    rows = [
        Row(n, SPELLINGS[how](f"question number {which}"), ["a", "b"], [1.0, 0.0], split)
        for n, (which, how, split) in enumerate(drawn)
    ]
    # whatever else happens, something is left for training
    rows += [Row(900 + n, f"own {n}", ["a", "b"], [1.0, 0.0], "train") for n in range(2)]
    dataset = GivenDataset(CONFIG, rows, "rows")
    own = [s for s in SPLITS if s != "sft" or dataset.prompts("sft") != dataset.prompts("train")]
    places: dict[str, set[str]] = {}
    for split in own:
        for prompt in dataset.prompts(split):
            places.setdefault(normalised(prompt.text), set()).add(split)
    assert all(len(found - {"sft"}) <= 1 for found in places.values())
    assert all(not found & {"sft"} or found <= {"sft", "train"} for found in places.values())
    assert places.keys() == {normalised(row.prompt) for row in rows}
    kept = sum(dataset.num_prompts(split) for split in own)
    assert kept + sum(dataset.cleaning().values()) == len(rows)
    # a prompt stays in the most held-out split that any of its rows names
    for key, found in places.items():
        named = [r.split for r in rows if normalised(r.prompt) == key and r.split is not None]
        if len(named) == sum(normalised(r.prompt) == key for r in rows):
            assert min(named, key=PRECEDENCE.index) in found
    ids = [prompt.id for split in own for prompt in dataset.prompts(split)]
    assert len(set(ids)) == len(ids)


def test_equal_responses_become_one_with_their_mean_score(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": f"q{i}", "responses": ["a", "b"], "scores": [1, 0]} for i in range(20)]
    plain = load(tmp_path / "plain.jsonl", rows)
    rows[0] = {"prompt": "q0", "responses": ["a", "b", "a"], "scores": [1, 0, 4]}
    rows[1] = {"prompt": "q1", "responses": ["a", "a"], "scores": [1, 0]}
    dataset = load(tmp_path / "doubled.jsonl", rows)
    assert dataset.cleaning() == {
        "responses merged with an equal one": 2,
        "rows without two different responses": 1,
    }
    names = {p.id for s in SPLITS for p in dataset.prompts(s) if p.text == "q0"}
    given_back = [r for s in SPLITS for r in dataset.responses(s) if r.prompt_id in names]
    found = {r.text: r.score for r in given_back}
    assert found == {"a": 2.5, "b": 0.0}
    assert "cleaned" in dataset.identity()
    assert "cleaned" not in plain.identity()


def test_messages_gold_and_rationale_of_a_file_are_kept(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    asked = {"role": "user", "content": "Why?"}
    answer = {"role": "assistant", "content": "Because."}
    rows: Rows = [
        {
            "prompt": [system, asked],
            "chosen": [system, asked, answer],
            "rejected": [{"role": "assistant", "content": "No."}],
            "gold": [answer],
            "rationale": "It answers.",
            "source": "ours",
            "reference": 42,
            "split": "train",
        },
        {"prompt": [asked], "chosen": "x", "rejected": "y", "split": "train"},
        {"prompt": "why?", "chosen": "x", "rejected": "y", "split": "test"},
    ]
    dataset = load(tmp_path / "m.jsonl", rows)
    # the second row asks what the third one asks, as a test
    (prompt,) = dataset.prompts("train")
    assert prompt.messages == (system, asked)
    assert prompt.text == "Be brief.\n\nHuman: Why?\n\nAssistant:"
    assert prompt.source == "ours"
    assert prompt.facts == {"reference": "42"}
    assert [(r.text, r.score) for r in dataset.responses("train")] == [
        ("Because.", 1.0), ("No.", 0.0),
    ]  # fmt: skip
    assert dataset.gold("train") == {prompt.id: "Because."}
    assert dataset.rationale("train") == {prompt.id: "It answers."}
    assert dataset.gold("test") == {}
    assert dataset.prompts("test")[0].conversation == "why?"
