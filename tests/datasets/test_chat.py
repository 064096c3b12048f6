"""Conversations: what is taken, how it reads as plain text, and transcripts read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.datasets.chat import (
    after_prompt,
    as_messages,
    check_messages,
    dump,
    load,
    merged,
    normalised,
    parse_transcript,
    render,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).map(
    str.strip
)
WORDS = TEXT.filter(lambda text: text and "Human:" not in text and "Assistant:" not in text)


def said(*turns: str) -> list[dict[str, str]]:
    return [{"role": "user" if n % 2 == 0 else "assistant", "content": t}
            for n, t in enumerate(turns)]  # fmt: skip


@given(st.none() | WORDS, st.lists(WORDS, min_size=2, max_size=7).filter(lambda t: len(t) % 2))
def test_what_is_rendered_is_read_back(system: str | None, turns: list[str]) -> None:
    messages = said(*turns)
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    assert parse_transcript(render(messages)) == tuple(messages)
    assert check_messages(messages) == tuple(messages)
    assert load(dump(messages)) == messages


def test_one_user_message_is_its_text_and_a_transcript_of_hh_is_read() -> None:
    assert render("What?") == render(said("What?")) == "What?"
    assert parse_transcript("\n\nHuman: a\nb \n\nAssistant: c\n\nd\n\nHuman: e\n\nAssistant:") == (
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c\n\nd"},
        {"role": "user", "content": "e"},
    )
    # a name in the middle of a line is no speaker
    assert len(parse_transcript("\n\nHuman: is it 'Assistant: yes'?")) == 1
    with pytest.raises(ValueError, match="no turn"):
        parse_transcript("just words")
    with pytest.raises(ValueError, match="turn 2 of the transcript is empty"):
        parse_transcript("\n\nHuman: a\n\nAssistant: \n\nHuman: b")


@given(WORDS, st.sampled_from([" ", "\t", "\n \n"]))
def test_case_and_white_space_do_not_tell_prompts_apart(text: str, gap: str) -> None:
    assert normalised(f"{gap}{gap.join(text.split(' '))}{gap}") == normalised(
        " ".join(text.split())
    )
    ascii_text = text.encode("ascii", "ignore").decode()
    assert normalised(f"x {ascii_text.upper()}") == normalised(f"X {ascii_text.lower()}")
    assert normalised(said(text)) == normalised(text)


def test_who_says_what_tells_prompts_apart() -> None:
    assert normalised(said("a", "b", "c")) != normalised("a b c")
    assert normalised(said("a", "b", "c")) != normalised(said("a", "c", "b"))
    assert normalised("ﬁne") == normalised("fine")


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "at least one"),
        ("hello", "must be a list"),
        ([{"role": "user"}], "message 0 must have a role and, as a string, content"),
        ([{"role": "robot", "content": "a"}], "the role 'robot'; roles are system, user"),
        ([{"role": "user", "content": " "}], "message 0 is empty"),
        (said("a", "b"), "the last message is of the role 'assistant'"),
        ([*said("a"), {"role": "system", "content": "b"}, *said("c")], "elsewhere than at the beg"),
    ],
)
def test_messages_that_are_no_prompt_are_told(messages: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_messages(messages)


def test_a_response_may_repeat_its_prompt() -> None:
    assert after_prompt(said("a", "b"), "a") == "b"
    assert after_prompt(said("a", "b")[1:], "a") == "b"
    for wrong in (said("other", "b"), said("a", "b", "c"), said("a")):
        with pytest.raises(ValueError, match="followed by one assistant message"):
            after_prompt(wrong, as_messages("a"))


def test_turns_of_one_speaker_become_one() -> None:
    assert merged([*said("a"), *said("b", "c")]) == (
        {"role": "user", "content": "a\n\nb"},
        {"role": "assistant", "content": "c"},
    )
