"""Judges behind HTTP against an endpoint of our own: real sockets, every way of going wrong."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.config.compose import compose
from ablate.config.judge import HttpJudgeConfig
from ablate.config.run import RunConfig, validate
from ablate.datasets import open_dataset
from ablate.errors import ConfigError, JudgeError
from ablate.evaluation.judges import Judge, open_judge
from ablate.rewards.scorers import Answer
from ablate.stages.judging import judge_content
from ablate.store.layout import Layout
from ablate.store.verdicts import Verdicts
from endpoint import Endpoint, quality

KEY = "sk-3f9a7c-do-not-tell"
PATHS = {
    "chat": "/v1/chat/completions",
    "rewards": "/rewards",
    "vllm_classify": "/classify",
    "vllm_pooling": "/pooling",
    "tei_predict": "/predict",
}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint()
    yield served
    served.close()


def config(url: str, *words: str, level: str = "http") -> RunConfig:
    return compose([f"judge={level}", f"judge.url={url}", "judge.model=m", "judge.backoff=0.01",
                    "judge.timeout=5", *words])  # fmt: skip


def judge_at(url: str, store: Path, *words: str, level: str = "http") -> Judge:
    run = config(url, *words, level=level)
    layout, dataset = Layout(store), open_dataset(run.dataset)
    content = judge_content(run, dataset, layout)
    return open_judge(run, dataset, [], None, content, layout.verdicts)


def answers(*texts: str, prompt: str = "list 2 city") -> list[Answer]:
    return [Answer(prompt, prompt, [1], text, [1]) for text in texts]


MANY = answers(*(f"answer number {number}" for number in range(40)))


def contents(folder: Path) -> str:
    return "".join(p.read_bytes().decode("latin-1") for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("form", PATHS)
def test_every_format_scores_each_answer_in_its_place(
    endpoint: Endpoint, tmp_path: Path, form: str
) -> None:
    words = [f"judge.format={form}", "judge.batch_size=7"]
    judge = judge_at(endpoint.url(PATHS[form]), tmp_path, *words)
    expected = [round(quality(a.response), 2) for a in MANY]
    np.testing.assert_allclose(judge.score(MANY), expected, atol=1e-9)
    assert sorted(endpoint.asked) == sorted(a.response for a in MANY)
    assert len(endpoint.bodies) == (6 if form in ("rewards", "tei_predict") else 40)
    assert judge.tally.plain() | {"seconds": 0} == {
        "judged": 40, "asked": 40, "from_cache": 0, "truncated": 0, "seconds": 0,
    }  # fmt: skip


def test_what_is_sent_is_what_the_formats_promise(endpoint: Endpoint, tmp_path: Path) -> None:
    one = answers("rome oslo")
    for form, path in PATHS.items():
        judge_at(endpoint.url(path), tmp_path, f"judge.format={form}").score(one)
    chat, rewards, classify, pooling, predict = endpoint.bodies
    assert {k: v for k, v in chat.items() if k != "messages"} == {
        "model": "m", "temperature": 0.0, "max_tokens": 512,
    }  # fmt: skip
    assert "list 2 city" in chat["messages"][0]["content"]
    assert "rome oslo" in chat["messages"][0]["content"]
    user = {"role": "user", "content": "list 2 city"}
    inputs = [{"messages": [user], "prompt": "list 2 city", "response": "rome oslo"}]
    assert rewards == {"model": "m", "inputs": inputs}
    turns = [user, {"role": "assistant", "content": "rome oslo"}]
    assert classify == pooling == {"model": "m", "messages": turns, "use_activation": False}
    pairs = [["list 2 city", "rome oslo"]]
    assert predict == {"inputs": pairs, "raw_scores": True, "truncate": False}


def test_a_second_time_nothing_is_asked(endpoint: Endpoint, tmp_path: Path) -> None:
    first = judge_at(endpoint.url(), tmp_path).score(MANY)
    asked = len(endpoint.bodies)
    endpoint.close()
    # another process would begin like this; the endpoint is gone, and may have moved
    again = judge_at("http://127.0.0.1:9/elsewhere", tmp_path)
    assert again.score(MANY).tolist() == first.tolist()
    assert (asked, again.tally.asked, again.tally.from_cache) == (40, 0, 40)
    (about,) = tmp_path.rglob("judge.json")
    assert json.loads(about.read_text())["model"] == "m"


def test_equal_answers_are_asked_once_and_equal_texts_to_other_prompts_apart(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    rows = [*answers("a", "b", "a"), *answers("a", prompt="sum 1 2")]
    judge = judge_at(endpoint.url(), tmp_path)
    scores = judge.score(rows)
    assert sorted(endpoint.asked) == ["a", "a", "b"]
    assert scores[0] == scores[2]
    assert (judge.tally.judged, judge.tally.asked) == (4, 3)


@pytest.mark.parametrize("status", [500, 503, 429, 408, 0])
def test_passing_failures_are_tried_again(endpoint: Endpoint, tmp_path: Path, status: int) -> None:
    endpoint.script = [status, status, status]
    scores = judge_at(endpoint.url(), tmp_path, "judge.retries=3").score(answers("a"))
    assert scores[0] == pytest.approx(round(quality("a"), 2))
    assert len(endpoint.bodies) == 4


def test_at_most_so_many_retries_then_one_message_and_what_was_answered_is_kept(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    words = ["judge.retries=2", "judge.concurrency=1"]
    endpoint.script = [200] * 25 + [500] * 3
    with pytest.raises(JudgeError) as caught:
        judge_at(endpoint.url(), tmp_path, *words).score(MANY)
    told = str(caught.value)
    assert "HTTP 500: 'not now, None' (after 3 attempts)" in told
    assert f"judge=http (m at {endpoint.url()})" in told
    assert "25 of 40 verdicts are kept" in told
    assert len(endpoint.bodies) == 28

    judge = judge_at(endpoint.url(), tmp_path, *words)
    judge.score(MANY)
    assert (judge.tally.asked, judge.tally.from_cache) == (15, 25)
    assert sorted(endpoint.asked) == sorted(a.response for a in MANY)


def test_waits_grow_and_an_endpoint_may_ask_for_more(endpoint: Endpoint, tmp_path: Path) -> None:
    def seconds(*words: str) -> float:
        endpoint.script = [429] * 3
        started = time.monotonic()
        judge_at(endpoint.url(), tmp_path / str(len(endpoint.bodies)), *words).score(answers("a"))
        return time.monotonic() - started

    assert seconds("judge.backoff=0.2") > 0.5 * (0.2 + 0.4 + 0.8)
    endpoint.retry_after = "0.5"
    assert seconds("judge.backoff=0.001") > 3 * 0.5
    endpoint.retry_after = "Wed, 21 Oct 2065 07:28:00 GMT"
    # a date is not waited for (this one lies decades ahead)
    assert seconds("judge.backoff=0.001") < 60


@pytest.mark.parametrize(("status", "told"), [(400, "HTTP 400"), (404, "judge.url"), (301, "301")])
def test_refusals_are_not_tried_again(
    endpoint: Endpoint, tmp_path: Path, status: int, told: str
) -> None:
    endpoint.script = [status]
    with pytest.raises(JudgeError, match=told):
        judge_at(endpoint.url(), tmp_path).score(answers("a"))
    assert len(endpoint.bodies) == 1


def test_an_endpoint_that_hangs_is_given_up(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.delay = 30
    judge = judge_at(endpoint.url(), tmp_path, "judge.timeout=0.2", "judge.retries=1")
    started = time.monotonic()
    with pytest.raises(JudgeError, match=r"(timed out|sign of life).*2 attempts"):
        judge.score(MANY)
    assert time.monotonic() - started < 20


GARBAGE = {
    "no JSON": (b"<html>busy</html>", "no JSON: '<html>busy</html>'"),
    "another shape": (b'{"answer": 3}', "another shape than judge.format=chat"),
    "no verdict": (b'{"choices": [{"message": {"content": "I like it."}}]}', "I like it."),
    "nothing said": (b'{"choices": [{"message": {"content": null}}]}', "no text"),
    "off the scale": (b'{"choices": [{"message": {"content": "score: 11"}}]}', "gave 11, outside"),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_asked_again_once_and_then_shown(
    endpoint: Endpoint, tmp_path: Path, kind: str
) -> None:
    raw, told = GARBAGE[kind]
    endpoint.raw = [raw]
    good = judge_at(endpoint.url(), tmp_path / "once").score(answers("a"))
    assert good[0] == pytest.approx(round(quality("a"), 2))
    endpoint.raw, endpoint.bodies = [raw, raw], []
    with pytest.raises(JudgeError) as caught:
        judge_at(endpoint.url(), tmp_path / "twice").score(answers("a"))
    assert told in str(caught.value)
    assert len(endpoint.bodies) == 2


@pytest.mark.parametrize(
    ("form", "reply", "told"),
    [
        ("rewards", b'{"scores": [1.0, 2.0]}', "2 scores for 1 answers"),
        ("rewards", b'{"scores": [true]}', "another shape"),
        ("rewards", b'{"scores": [NaN]}', "nan, which is no score"),
        ("rewards", b'{"scores": [1e999]}', "inf, which is no score"),
        ("vllm_classify", b'{"data": [{"probs": [0.1, 0.9]}]}', "2 values where a reward model"),
        ("vllm_pooling", b'{"data": [{"data": [[0.1], [0.9]]}]}', "2 values where a reward model"),
        ("tei_predict", b'[[{"score": 1, "label": "a"}, {"score": 0, "label": "b"}]]', "2 values"),
        ("tei_predict", b"[]", "0 scores for 1 answers"),
    ],
)
def test_replies_that_are_no_scores_are_refused(
    endpoint: Endpoint, tmp_path: Path, form: str, reply: bytes, told: str
) -> None:
    endpoint.raw = [reply, reply]
    judge = judge_at(endpoint.url(PATHS[form]), tmp_path, f"judge.format={form}")
    with pytest.raises(JudgeError, match=told):
        judge.score(answers("a"))
    assert not list(tmp_path.rglob("*.jsonl"))


def test_the_last_verdict_of_a_reply_counts(endpoint: Endpoint, tmp_path: Path) -> None:
    said = "Some would give a score: 2. But no.\n**Score: 7.5**/10"
    endpoint.raw = [json.dumps({"choices": [{"message": {"content": said}}]}).encode()]
    assert judge_at(endpoint.url(), tmp_path).score(answers("a")).tolist() == [7.5]


def test_braces_in_a_text_stay_what_they_are(endpoint: Endpoint, tmp_path: Path) -> None:
    judge_at(endpoint.url(), tmp_path).score(
        answers("{prompt} {response} {0}", prompt="{response}")
    )
    sent = endpoint.bodies[0]["messages"][0]["content"]
    assert "[Asked]\n{response}\n" in sent
    assert "[Answered]\n{prompt} {response} {0}\n" in sent


def test_requests_are_under_way_at_once_but_no_more_than_said(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.delay = 0.05
    judge_at(endpoint.url(), tmp_path, "judge.concurrency=4").score(MANY)
    assert endpoint.busiest == 4


def test_a_process_that_dies_in_the_middle_leaves_what_it_answered(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[1] / "endpoint.py"
    process = subprocess.Popen(
        [sys.executable, str(script), "12"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = f"http://127.0.0.1:{int(process.stdout.readline())}/v1/chat/completions"
    words = ["judge.retries=1", "judge.concurrency=2"]
    try:
        with pytest.raises(JudgeError, match=r"refused|broke the connection"):
            judge_at(url, tmp_path, *words).score(MANY)
        assert process.wait(timeout=10) == 9
    finally:
        process.kill()
    (folder,) = Layout(tmp_path).verdicts.iterdir()
    kept = len(Verdicts(folder).read())
    assert 10 <= kept <= 13
    other = Endpoint()
    judge = judge_at(other.url(), tmp_path, *words)
    judge.score(MANY)
    other.close()
    assert len(other.asked) == 40 - kept


def test_the_key_is_sent_and_stays_a_secret(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["judge.api_key_env=ABLATE_TEST_KEY", "judge.retries=0"]
    monkeypatch.delenv("ABLATE_TEST_KEY", raising=False)
    with pytest.raises(JudgeError, match="ABLATE_TEST_KEY, which is not set"):
        judge_at(endpoint.url(), tmp_path, *words)
    monkeypatch.setenv("ABLATE_TEST_KEY", KEY)
    endpoint.key = KEY
    judge_at(endpoint.url(), tmp_path, *words).score(MANY)
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"

    endpoint.key = "another"  # which repeats the key that it refuses
    with pytest.raises(
        JudgeError, match=r"HTTP 401: 'no such key: Bearer \*\*\*'.*api_key_env"
    ) as no:
        judge_at(endpoint.url(), tmp_path, *words).score(answers("z"))
    endpoint.key, endpoint.script = None, [500]
    with pytest.raises(JudgeError, match=r"Bearer \*\*\*") as down:
        judge_at(endpoint.url(), tmp_path, *words).score(answers("z"))
    endpoint.raw = [f"your key is {KEY}".encode()] * 2
    with pytest.raises(JudgeError, match=r"your key is \*\*\*") as odd:
        judge_at(endpoint.url(), tmp_path, *words).score(answers("z"))
    for error in (no, down, odd):
        assert KEY not in "".join(map(str, error.value.args))
    assert KEY not in contents(tmp_path)
    for bad in (f"{KEY}\nX-Header: 1", "clé", "a b"):
        monkeypatch.setenv("ABLATE_TEST_KEY", bad)
        with pytest.raises(JudgeError, match="ABLATE_TEST_KEY") as caught:
            judge_at(endpoint.url(), tmp_path, *words)
        assert bad not in str(caught.value)


def test_pairs_are_asked_in_both_orders_and_the_score_is_the_share_of_wins(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    texts = ["b", "a", "d", "a"]  # close in quality: the endpoint's liking for the first one shows
    judge = judge_at(endpoint.url(), tmp_path, level="http_pairwise")
    scores = judge.score(answers(*texts))

    def beats(one: str, other: str) -> float:
        if one == other:
            return 0.5
        first = 1.0 if quality(one) + 0.5 > quality(other) else 0.0
        second = 0.0 if quality(other) + 0.5 > quality(one) else 1.0
        return (first + second) / 2

    expected = [
        np.mean([beats(text, other) for j, other in enumerate(texts) if j != i])
        for i, text in enumerate(texts)
    ]
    np.testing.assert_allclose(scores, expected)
    # the bias for the first place cancels: here all are within it, so all tie
    assert scores.tolist() == [0.5] * 4
    assert sorted(endpoint.asked) == sorted((x, y) for x in "abd" for y in "abd" if x != y)
    assert scores.mean() == pytest.approx(0.5), "every win is another's loss"


def test_without_the_swap_each_pair_is_asked_once_whoever_comes_first(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    words = ["judge.chat.swap=false"]
    judge = judge_at(endpoint.url(), tmp_path, *words, level="http_pairwise")
    scores = judge.score(answers("b", "a", "d"))
    assert sorted(endpoint.asked) == [("a", "b"), ("a", "d"), ("b", "d")]
    assert scores.tolist() == [0.5, 1.0, 0.0]  # the first of each pair wins
    back = judge_at(endpoint.url(), tmp_path, *words, level="http_pairwise")
    assert back.score(answers("d", "b", "a")).tolist() == [0.0, 0.5, 1.0]
    assert back.tally.asked == 0


def test_an_opponent_of_ones_own_takes_the_place_of_the_group(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    rows = [
        Answer("p", "p", [1], text, [1], opponent=opponent)
        for text, opponent in [("zz", "a"), ("a", "zz"), ("same", "same")]
    ]
    assert quality("zz") > quality("a") + 1
    judge = judge_at(endpoint.url(), tmp_path, level="http_pairwise")
    assert judge.score(rows).tolist() == [1.0, 0.0, 0.5]
    assert sorted(endpoint.asked) == [("a", "zz"), ("zz", "a")]
    alone = judge_at(endpoint.url(), tmp_path, level="http_pairwise")
    assert alone.score(answers("lonely")).tolist() == [0.5]
    assert alone.tally.asked == 0


def test_the_identity_holds_what_decides_a_score_and_nothing_else(tmp_path: Path) -> None:
    runs = {level: config("http://a:1/x", level=level) for level in ("http", "http_pairwise")}

    def content(level: str = "http", chat: dict[str, Any] | None = None, **changes: Any) -> Any:
        plain = runs[level].model_dump()
        plain["judge"] |= {**changes, "chat": plain["judge"]["chat"] | (chat or {})}
        run = validate(plain)
        return judge_content(run, open_dataset(run.dataset), Layout(tmp_path))

    base = content()
    for same in ({"url": "http://b:2/y"}, {"api_key_env": "SOME_NAME"}, {"retries": 9},
                 {"concurrency": 1}, {"timeout": 9}, {"batch_size": 3}, {"backoff": 9},
                 {"chat": {"swap": False}}):  # fmt: skip
        assert content(**same) == base
    others = [
        content(model="n"), content(version=2), content(format="rewards"),
        *(content(chat=chat) for chat in (
            {"temperature": 0.5}, {"scale": [0, 10]}, {"max_tokens": 9}, {"pattern": "(\\d)"},
            {"template": "{prompt} {response}"},
        )),
        content("http_pairwise"), content("http_pairwise", chat={"swap": False}),
    ]  # fmt: skip
    assert len({str(other) for other in [base, *others]}) == len(others) + 1
    # a reward model is asked no question
    assert content(format="rewards", chat={"temperature": 1}) == content(format="rewards")

    file = tmp_path / "mine.txt"
    file.write_text("{prompt} {response}")
    mine = {"template_file": str(file)}
    assert content(chat=mine) == content(chat={"template": "{prompt} {response}"})
    file.write_text("{prompt}")
    with pytest.raises(ConfigError, match=r"mine.txt.*lacks \{response\}"):
        content(chat=mine)
    file.unlink()
    with pytest.raises(ConfigError, match=r"mine.txt cannot be read"):
        content(chat=mine)


ASK = """
import sys
sys.path[:0] = {folders!r}
from pathlib import Path
from test_http_judge import judge_at, MANY
print(judge_at(sys.argv[1], Path(sys.argv[2])).score(MANY).tolist())
"""


def asking(endpoint: Endpoint, store: Path) -> subprocess.Popen[str]:
    here = Path(__file__).resolve().parent
    code = ASK.format(folders=[str(here), str(here.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", code, endpoint.url(), str(store)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_ask_each_item_at_most_twice_and_agree(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.delay = 0.05
    both = [asking(endpoint, tmp_path) for _ in range(2)]
    told = [process.communicate(timeout=120)[0] for process in both]
    assert told[0] == told[1] != ""
    assert max(endpoint.asked.count(a.response) for a in MANY) <= 2
    asked = len(endpoint.asked)
    third = judge_at(endpoint.url(), tmp_path)
    assert str(third.score(MANY).tolist()) == told[0].strip()
    assert len(endpoint.asked) == asked


def test_a_process_killed_while_asking_leaves_whole_verdicts(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.delay = 0.2
    process = asking(endpoint, tmp_path)
    deadline = time.monotonic() + 120
    while len(endpoint.asked) < 16 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    (folder,) = Layout(tmp_path).verdicts.iterdir()
    kept = Verdicts(folder).read()
    assert 0 < len(kept) < 40
    endpoint.delay = 0.0
    judge = judge_at(endpoint.url(), tmp_path)
    expected = [round(quality(a.response), 2) for a in MANY]
    np.testing.assert_allclose(judge.score(MANY), expected)
    assert (judge.tally.asked, judge.tally.from_cache) == (40 - len(kept), len(kept))


def test_ctrl_c_ends_a_judge_at_once(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.delay = 20
    process = asking(endpoint, tmp_path)
    deadline = time.monotonic() + 120
    while not endpoint.busy and time.monotonic() < deadline:
        time.sleep(0.02)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert time.monotonic() - started < 4
    assert threading.active_count() < 100


def test_configurations_of_the_levels_are_what_they_say() -> None:
    run = config("http://a:1/x", level="http_reward")
    assert isinstance(run.judge, HttpJudgeConfig)
    assert (run.judge.format, run.judge.name) == ("rewards", "http_reward")
