"""Public preference sets: each schema through its adapter, splits, limits, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from public_rows import (
    binarized,
    helpsteer2,
    hh_rlhf,
    nectar,
    ultrafeedback,
    write,
    write_all,
)

from ablate.config.compose import compose
from ablate.config.dataset import PublicConfig
from ablate.config.levels import level_names
from ablate.datasets import GivenResponse, PreferenceDataset, PublicDataset, open_dataset
from ablate.errors import ConfigError, DataError

NAMES = ["ultrafeedback", "ultrafeedback_binarized", "helpsteer2", "helpsteer3", "hh_rlhf",
         "nectar"]  # fmt: skip


def config(name: str, path: Path | None, *words: str) -> PublicConfig:
    chosen = compose([f"dataset={name}", *words]).dataset
    assert isinstance(chosen, PublicConfig)
    return chosen.model_copy(update={"path": None if path is None else str(path)})


def load(name: str, path: Path, *words: str) -> PublicDataset:
    dataset = open_dataset(config(name, path, *words))
    assert isinstance(dataset, PublicDataset)
    return dataset


def groups(dataset: PublicDataset, *splits: str) -> dict[str, tuple[Any, dict[str, float]]]:
    """Messages (None for a plain prompt) and scores by response, by the text of the prompt."""
    found = {}
    for split in splits or ("reward", "judge", "valid", "test", "train", "ood"):
        by_id: dict[str, list[GivenResponse]] = {}
        for item in dataset.responses(split):
            by_id.setdefault(item.prompt_id, []).append(item)
        for prompt in dataset.prompts(split):
            scores = {item.text: item.score for item in by_id[prompt.id]}
            found[prompt.text] = (prompt.messages, scores)
    return found


def test_there_is_a_level_for_every_adapter() -> None:
    assert set(NAMES) < set(level_names("dataset"))


@pytest.mark.parametrize("name", NAMES)
def test_every_set_fills_its_splits_from_a_folder_laid_out_like_the_hub(
    name: str, tmp_path: Path
) -> None:
    dataset = load(name, write_all(name, tmp_path))
    assert isinstance(dataset, PreferenceDataset)
    sizes = {s: dataset.num_prompts(s) for s in ("reward", "judge", "valid", "test", "train")}
    own_test = name not in ("ultrafeedback", "nectar")
    assert sizes == {"reward": 8, "judge": 4, "valid": 2,
                     "test": 8 if own_test else 2, "train": 26 if own_test else 24}  # fmt: skip
    assert dataset.num_prompts("ood") == (8 if name == "hh_rlhf" else 0)
    assert dataset.cleaning() == {}
    assert dataset.origin()["files"]


def test_ultrafeedback_takes_the_score_that_is_asked_for(tmp_path: Path) -> None:
    folder = write_all("ultrafeedback", tmp_path)
    messages, scores = groups(load("ultrafeedback", folder))["flan question 2"]
    assert messages is None
    assert scores == {f"answer {k} to 2": (2 + k) % 4 + 1.0 for k in range(4)}
    words = ["dataset.score.overall_score=0", "dataset.score.fine-grained_score=1"]
    _, scores = groups(load("ultrafeedback", folder, *words))["flan question 2"]
    assert scores == {f"answer {k} to 2": 5.0 - (2 + k) % 4 for k in range(4)}
    sources = {p.source for p in load("ultrafeedback", folder).prompts("train")}
    assert sources == {"flan", "sharegpt"}


def test_completions_without_a_score_are_left_out_and_the_group_stays(tmp_path: Path) -> None:
    rows = ultrafeedback(40)
    rows[3]["completions"][1]["overall_score"] = None
    rows[4]["completions"] = rows[4]["completions"][:1]
    dataset = load("ultrafeedback", write(tmp_path / "x.jsonl", rows))
    found = groups(dataset)
    assert set(found["flan question 3"][1]) == {f"answer {k} to 3" for k in (0, 2, 3)}
    assert "flan question 4" not in found
    assert dataset.cleaning() == {"rows without two different responses": 1}
    assert sorted(dataset.response_counts("train").values())[0] in (3, 4)


def test_helpsteer2_joins_two_rows_and_weighs_the_ratings(tmp_path: Path) -> None:
    folder = write_all("helpsteer2", tmp_path)
    found = groups(load("helpsteer2", folder))
    assert found["question 4"] == (None, {"answer 0 to 4": 0.0, "answer 1 to 4": 4.0})
    messages, _ = found["Human: question 3\n\nAssistant: reply 3\n\nHuman: follow-up 3\n\n"
                        "Assistant:"]  # fmt: skip
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[2]["content"] == "follow-up 3"
    weights = ["dataset.score.helpfulness=0.5", "dataset.score.verbosity=-1"]
    found = groups(load("helpsteer2", folder, *weights))
    assert found["question 4"][1] == {"answer 0 to 4": -2.0, "answer 1 to 4": 1.0}


def test_helpsteer3_scores_differ_by_the_preference(tmp_path: Path) -> None:
    found = groups(load("helpsteer3", write_all("helpsteer3", tmp_path)))
    differences = {}
    for text, (messages, scores) in found.items():
        number = int(messages[0]["content"].removeprefix("question "))
        assert text.startswith(f"Human: question {number}")
        differences[number] = scores[f"second {number}"] - scores[f"first {number}"]
    assert differences == {i: i % 7 - 3 for i in [*range(40), *range(100, 108)]}


def test_hh_transcripts_become_messages_and_pairs_an_order(tmp_path: Path) -> None:
    dataset = load("hh_rlhf", write_all("hh_rlhf", tmp_path))
    assert not dataset.has_scores
    assert groups(dataset, "ood")["harm 2"] == (None, {"good 2": 1.0, "bad 2": 0.0})
    messages, scores = groups(dataset)[
        "Human: help 3\n\nAssistant: reply 3\n\nHuman: more 3\n\nAssistant:"
    ]
    assert messages == (
        {"role": "user", "content": "help 3"},
        {"role": "assistant", "content": "reply 3"},
        {"role": "user", "content": "more 3"},
    )
    assert scores == {"good 3": 1.0, "bad 3": 0.0}


def test_hh_rows_that_compare_nothing_are_counted_by_reason(tmp_path: Path) -> None:
    rows = hh_rlhf(40)
    rows[0]["rejected"] = "\n\nHuman: something else\n\nAssistant: bad"
    rows[1]["chosen"] = "\n\nHuman: help 1\n\nAssistant: reply\n\nHuman: thanks"
    rows[2]["chosen"] = ""
    rows[4]["chosen"] = rows[4]["rejected"]
    dataset = load("hh_rlhf", write(tmp_path / "x.jsonl", rows), "dataset.test_share=0.1")
    assert dataset.cleaning() == {
        "rows whose two conversations part before the last answer": 1,
        "rows without a last answer": 1,
        "rows with an empty text": 1,
        "responses merged with an equal one": 1,
        "rows without two different responses": 1,
    }
    assert sum(dataset.num_prompts(s) for s in ("reward", "judge", "valid", "test", "train")) == 36


def test_nectar_ranks_seven_answers_with_the_first_rank_best(tmp_path: Path) -> None:
    dataset = load("nectar", write_all("nectar", tmp_path))
    assert not dataset.has_scores
    messages, scores = groups(dataset)["question 5"]
    assert messages is None
    assert scores == {f"answer {k} to 5": -((5 + k) % 7 + 1.0) for k in range(7)}
    for prompt, text in dataset.demonstrations():
        number = int(prompt.text.removeprefix("question "))
        assert text == f"answer {-number % 7} to {number}"
    assert dataset.prompts("train")[0].source == "lmsys-chat-1m, ours"


def test_binarized_conversations_keep_their_system_message(tmp_path: Path) -> None:
    found = groups(load("ultrafeedback_binarized", write_all("ultrafeedback_binarized", tmp_path)))
    messages, scores = found["Be brief.\n\nHuman: question 4\n\nAssistant:"]
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert scores == {"good 4": 8.5, "bad 4": 3.0}
    assert found["question 3"][0] is None


@pytest.mark.parametrize("name", ["ultrafeedback", "helpsteer2"])
def test_a_larger_limit_extends_a_smaller_one_and_order_plays_no_part(
    name: str, tmp_path: Path
) -> None:
    rows = ultrafeedback(60) if name == "ultrafeedback" else helpsteer2(60)
    paths = [write(tmp_path / f"{k}.jsonl", r) for k, r in enumerate((rows, rows[::-1]))]
    chosen = [
        set(groups(load(name, path, f"dataset.max_prompts={most}", "dataset.test_share=0.05")))
        for path in paths
        for most in (20, 40)
    ]
    assert [len(texts) for texts in chosen] == [20, 40, 20, 40]
    assert chosen[0] < chosen[1]
    assert chosen[0] == chosen[2]


def test_prompts_that_stand_in_the_test_files_leave_training(tmp_path: Path) -> None:
    folder = write_all("ultrafeedback_binarized", tmp_path)
    spelled = binarized(3, 100)
    for row in spelled:
        for message in (*row["chosen"], *row["rejected"]):
            if message["role"] == "user":
                message["content"] = f"  {message['content'].upper()} "
    write(folder / "data" / "train_prefs-00000-of-00002.parquet", spelled)
    before = load("ultrafeedback_binarized", folder)
    assert sum(before.cleaning().values()) == 3
    assert all(what.endswith("that also stand in test") for what in before.cleaning())
    assert before.num_prompts("test") == 8


def test_identity_is_content_and_choice_and_not_the_place(tmp_path: Path) -> None:
    rows = hh_rlhf(40)
    words = ["dataset.test_share=0.1"]
    one = load("hh_rlhf", write(tmp_path / "a" / "x.jsonl", rows), *words)
    moved = load("hh_rlhf", write(tmp_path / "b" / "x.jsonl", rows), *words)
    assert one.identity() == moved.identity()
    fewer = load("hh_rlhf", tmp_path / "a" / "x.jsonl", *words, "dataset.max_prompts=30")
    other = load("hh_rlhf", write(tmp_path / "c" / "x.jsonl", hh_rlhf(41)), *words)
    identities = [str(d.identity()) for d in (one, fewer, other)]
    assert len(set(identities)) == 3
    assert one.identity("train") != one.identity("test")


def test_a_hub_id_out_of_reach_says_what_to_download_and_where_to_put_it() -> None:
    for words in ([], ["dataset.streaming=true", "dataset.max_prompts=10"]):
        with pytest.raises(DataError) as caught:
            open_dataset(config("hh_rlhf", None, *words))
        message = str(caught.value)
        assert "hf download Anthropic/hh-rlhf --repo-type dataset --revision 09be8c5" in message
        assert "dataset.path=FOLDER" in message


def test_a_snapshot_in_the_hub_cache_is_used_and_named_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "datasets--nvidia--HelpSteer3"
    write_all("helpsteer3", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for words in ([], [f"dataset.revision={commit}"]):
        dataset = open_dataset(config("helpsteer3", None, *words))
        assert dataset.origin()["commit"] == commit
        assert dataset.identity()["content"]["hub"] == "nvidia/HelpSteer3"
        assert dataset.num_prompts("test") == 8
    other = commit[::-1]
    with pytest.raises(DataError, match=f"--revision {other} --local-dir"):
        open_dataset(config("helpsteer3", None, f"dataset.revision={other}"))


def test_files_and_settings_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder; set dataset.path"):
        load("nectar", tmp_path / "nowhere")
    folder = write_all("hh_rlhf", tmp_path / "hh")
    with pytest.raises(DataError, match=r"no file data/\*.parquet .*it holds harmless-base, help"):
        load("nectar", folder)
    path = write(tmp_path / "hh.jsonl", hh_rlhf(40))
    with pytest.raises(DataError, match=r"lacks the columns prompt, answers of the schema of berk"):
        load("nectar", path)
    (tmp_path / "bad.jsonl").write_text('{"chosen": "a"\n')
    with pytest.raises(DataError, match=r"bad.jsonl: cannot be read"):
        load("hh_rlhf", tmp_path / "bad.jsonl")
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"unknown kind of file; known are .jsonl"):
        load("hh_rlhf", tmp_path / "x.csv")
    with pytest.raises(ConfigError, match=r"one label per response: dataset.score must be null"):
        load("nectar", path, "dataset.score={rank: 1}")
    with pytest.raises(ConfigError, match="several scores per response: weigh them"):
        load("helpsteer2", path, "dataset.score=null")
    with pytest.raises(ConfigError, match=r"say how much by dataset.max_prompts"):
        load("hh_rlhf", path, "dataset.streaming=true")
    rows = [{**row, "helpfulness": 1} for row in helpsteer2(5)]
    for row in rows:
        del row["verbosity"]
    with pytest.raises(DataError, match="lacks the column verbosity"):
        load("helpsteer2", write(tmp_path / "h.jsonl", rows), "dataset.score.verbosity=1")
    broken = [{**row, "answers": []} for row in nectar(5)]
    with pytest.raises(DataError, match="no row is left for the split 'train'"):
        load("nectar", write(tmp_path / "n.jsonl", broken))


def test_a_limited_stream_takes_the_files_in_turn(tmp_path: Path) -> None:
    folder = write_all("ultrafeedback", tmp_path)
    words = ["dataset.streaming=true", "dataset.max_prompts=12"]
    texts = set(groups(load("ultrafeedback", folder, *words)))
    assert texts == {f"{s} question {i}" for s in ("flan", "sharegpt") for i in range(6)}
