"""What the endpoints of reward models and chat models are sent, and how their replies are read.

The shapes are those of docs/judges.md. Every reader raises `Unreadable` for a reply of another
shape, with the beginning of what it got.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from ablate.config.judge import HttpJudgeConfig
from ablate.evaluation.http_client import Unreadable, beginning
from ablate.evaluation.verdicts import Item

#: formats whose requests hold several answers
BATCHED = ("rewards", "tei_predict")
#: what a pairwise verdict is worth to the first answer
WORTH = {"a": 1.0, "b": 0.0, "tie": 0.5}

_PLACEHOLDER = re.compile(r"\{(prompt|response|response_a|response_b)\}")


def request(judge: HttpJudgeConfig, template: str, items: Sequence[Item]) -> dict[str, Any]:
    """The body of a request about some items (one, unless the format is in `BATCHED`)."""
    if judge.format == "rewards":
        inputs = [
            {"messages": i["turns"], "prompt": transcript(i["turns"]), "response": i["response"]}
            for i in items
        ]
        return {"model": judge.model, "inputs": inputs}
    if judge.format == "tei_predict":
        pairs = [[transcript(item["turns"]), item["response"]] for item in items]
        return {"inputs": pairs, "raw_scores": True, "truncate": False}
    (item,) = items
    if judge.format != "chat":
        turns = [*item["turns"], {"role": "assistant", "content": item["response"]}]
        # the raw output: an activation would squeeze it into 0 to 1
        return {"model": judge.model, "messages": turns, "use_activation": False}
    chat = judge.chat
    body: dict[str, Any] = {
        "model": judge.model,
        "messages": [{"role": "user", "content": fill(template, item)}],
    }
    if chat.temperature is not None:
        body["temperature"] = chat.temperature
    if chat.max_tokens is not None:
        body["max_tokens"] = chat.max_tokens
    return body


def reader(judge: HttpJudgeConfig, count: int) -> Callable[[Any], list[float]]:
    """The function that turns a reply about `count` items into their verdicts."""
    read = {
        "chat": lambda reply: [chat_verdict(judge, reply)],
        "rewards": lambda reply: reply["scores"],
        "tei_predict": lambda reply: [_only(found)["score"] for found in reply],
        "vllm_classify": lambda reply: [_only(_only(reply["data"])["probs"])],
        "vllm_pooling": lambda reply: [_innermost(_only(reply["data"])["data"])],
    }[judge.format]

    def checked(reply: Any) -> list[float]:
        try:
            values = read(reply)
            if not isinstance(values, list) or not all(map(_is_number, values)):
                raise ValueError("no list of numbers")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Unreadable(
                f"answered in another shape than judge.format={judge.format} has "
                f"({error if isinstance(error, ValueError) else 'something is missing'}): "
                f"{beginning(json.dumps(reply, ensure_ascii=False))}"
            ) from None
        if len(values) != count:
            raise Unreadable(f"gave {len(values)} scores for {count} answers")
        return [float(value) for value in values]

    return checked


def chat_verdict(judge: HttpJudgeConfig, reply: Any) -> float:
    """The mark, or what the first of two answers is worth (1, ½, 0), in a chat completion."""
    text = reply["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        raise ValueError("no text")
    chat = judge.chat
    found = [match.group(1) for match in re.finditer(chat.pattern, text) if match.group(1)]
    if not found:
        raise Unreadable(f"gave no verdict that judge.chat.pattern finds: {beginning(text)}")
    if chat.mode == "pairwise":
        word = found[-1].lower()
        if word not in WORTH:
            raise Unreadable(f"said {word!r}, which is none of {', '.join(WORTH)}")
        return WORTH[word]
    low, high = chat.scale
    try:
        mark = float(found[-1])
    except ValueError:
        raise Unreadable(f"gave {found[-1]!r} as its mark, which is no number") from None
    if not low <= mark <= high:
        raise Unreadable(
            f"gave {mark:g}, outside judge.chat.scale=[{low:g},{high:g}]: {beginning(text)}"
        )
    return mark


def fill(template: str, item: Item) -> str:
    """The template with the item's texts; braces inside a text stay what they are."""
    texts = {name: text for name, text in item.items() if name != "turns"}
    texts["prompt"] = transcript(item["turns"])
    return _PLACEHOLDER.sub(lambda match: texts.get(match[1], match[0]), template)


def transcript(turns: Sequence[dict[str, str]]) -> str:
    """A conversation as text; a single message of a user is that message alone."""
    if len(turns) == 1 and turns[0]["role"] == "user":
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _only(values: Any) -> Any:
    if not isinstance(values, list) or len(values) != 1:
        count = len(values) if isinstance(values, list) else "no"
        raise ValueError(f"{count} values where a reward model gives one")
    return values[0]


def _innermost(value: Any) -> Any:
    while isinstance(value, list):
        value = _only(value)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
