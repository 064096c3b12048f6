"""Conversations: checked messages, their plain rendering, and transcripts parsed back into them."""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

#: {"role": "system" | "user" | "assistant", "content": text}
Message = dict[str, str]
#: what a prompt is: one user's text, or messages of which the last is the user's
Conversation = str | Sequence[Message]

ROLES = ("system", "user", "assistant")
#: how a plain text names who speaks (the form of HH-RLHF, arXiv 2204.05862)
SPEAKERS = {"user": "Human", "assistant": "Assistant"}
_ROLE_OF = {name: role for role, name in SPEAKERS.items()}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")


def check_messages(value: Any) -> tuple[Message, ...]:
    """Messages of a prompt as read from a file: plain, complete, the last one the user's.

    Raises:
        ValueError: says what is wrong with them.
    """
    messages = spoken(value)
    if messages[-1]["role"] != "user":
        raise ValueError(
            f"the last message is of the role '{messages[-1]['role']}'; a prompt ends with the user"
        )
    if any(message["role"] == "system" for message in messages[1:]):
        raise ValueError("a system message stands elsewhere than at the beginning")
    return messages


def spoken(value: Any) -> tuple[Message, ...]:
    """A list of messages, each with a known role and some text, whoever speaks last.

    Raises:
        ValueError: says which message is wrong and how.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("messages must be a list with at least one {role, content}")
    messages = []
    for place, item in enumerate(value):
        if not isinstance(item, dict) or not isinstance(item.get("content"), str):
            raise ValueError(f"message {place} must have a role and, as a string, content")
        if item.get("role") not in ROLES:
            raise ValueError(
                f"message {place} has the role {item.get('role')!r}; roles are {', '.join(ROLES)}"
            )
        if not item["content"].strip():
            raise ValueError(f"message {place} is empty")
        messages.append({"role": str(item["role"]), "content": item["content"]})
    return tuple(messages)


def merged(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages in a row of one role as one message: chat templates want turns that alternate."""
    result: list[Message] = []
    for message in messages:
        if result and result[-1]["role"] == message["role"]:
            content = f"{result[-1]['content']}\n\n{message['content']}"
            result[-1] = {"role": message["role"], "content": content}
        else:
            result.append(dict(message))
    return tuple(result)


def render(prompt: Conversation) -> str:
    """A prompt as plain text, for people and for models without a chat template.

    One user message is its own text. Anything longer reads `Human: … Assistant: … Human: …
    Assistant:`, turns apart by an empty line, what the system says first and without a name.
    """
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    turns = [
        message["content"]
        if message["role"] == "system"
        else f"{SPEAKERS[message['role']]}: {message['content']}"
        for message in prompt
    ]
    return "\n\n".join([*turns, f"{SPEAKERS['assistant']}:"])


def parse_transcript(text: str) -> tuple[Message, ...]:
    """The messages of a text such as HH-RLHF's: `\\n\\nHuman: … \\n\\nAssistant: …`.

    What stands before the first speaker is the system's. White space around a turn is dropped,
    and a last turn without text is left out (it is where the next answer belongs).

    Raises:
        ValueError: nobody speaks, or a turn before the last is empty.
    """
    marks = list(_TURN.finditer(text))
    if not marks:
        raise ValueError("no turn 'Human:' or 'Assistant:' in the transcript")
    messages: list[Message] = []
    before = text[: marks[0].start()].strip()
    if before:
        messages.append({"role": "system", "content": before})
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for place, (mark, end) in enumerate(zip(marks, ends, strict=True)):
        content = text[mark.end() : end].strip()
        if content:
            messages.append({"role": _ROLE_OF[mark.group(1)], "content": content})
        elif place + 1 < len(marks):
            raise ValueError(f"turn {place + 1} of the transcript is empty")
    if not messages:
        raise ValueError("the transcript holds no words")
    return tuple(messages)


def after_prompt(value: Any, prompt: Conversation) -> str:
    """The text of a response that is given as messages, with or without the prompt before it.

    Raises:
        ValueError: it goes another way than the prompt, or is not one assistant message.
    """
    messages = spoken(value)
    turns = as_messages(prompt)
    if messages[: len(turns)] == turns:
        messages = messages[len(turns) :]
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise ValueError("the messages are not the prompt's, followed by one assistant message")
    return messages[0]["content"]


def as_messages(prompt: Conversation) -> tuple[Message, ...]:
    """A prompt as messages; a text is one message of the user."""
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    return tuple(prompt)


def normalised(prompt: Conversation) -> str:
    """What two prompts share that a reader would call the same.

    Unicode form (NFKC), upper and lower case and white space make no difference; who said what
    does.
    """
    said = [
        [message["role"], " ".join(unicodedata.normalize("NFKC", message["content"]).split())]
        for message in as_messages(prompt)
    ]
    return json.dumps(said, ensure_ascii=False).casefold()


def dump(messages: Sequence[Message]) -> str:
    """Messages as one line of JSON, for a column of a table."""
    return json.dumps(list(messages), ensure_ascii=False)


def load(text: str) -> list[Message]:
    """The messages that `dump` wrote."""
    messages: list[Message] = json.loads(text)
    return messages


def why_better(prompt: Conversation, better: str, worse: str) -> str:
    """The question that a rationale answers, one text of prompt and two responses.

    arXiv 2407.14477 conditions the rationale on the prompt and both responses; the words are ours.
    """
    return (
        f"{render(prompt)}\n\nResponse A: {better}\n\nResponse B: {worse}\n\n"
        "Why is response A better than response B?"
    )
