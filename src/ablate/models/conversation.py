"""Whole conversations as token ids, the way a classifier with a tokenizer of its own reads them."""

from collections.abc import Sequence
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from ablate.datasets.chat import render
from ablate.errors import ModelError
from ablate.models.tokenizer import encode_prompt, encode_response, is_built_here

#: stands for the answer while the template's own words around it are found
_MARKER = "ablate0answer0text"

Turns = Sequence[dict[str, str]]


def encoding_of(
    tokenizer: PreTrainedTokenizerBase, asked: Literal["auto", "chat", "pair", "plain"]
) -> Literal["chat", "pair", "plain"]:
    """How answers are put to the classifier: as asked, or as its tokenizer suggests.

    `auto` is `chat` where there is a chat template; `pair` where the tokenizer frames two segments
    with tokens of its own, as those of encoders do; else `plain`.

    Raises:
        ModelError: `chat` without a chat template.
    """
    if asked == "chat" and tokenizer.chat_template is None:
        raise ModelError(
            "encoding=chat, but its tokenizer has no chat template; use encoding=pair, "
            "encoding=plain or encoding=auto"
        )
    if asked != "auto":
        return asked
    if tokenizer.chat_template is not None:
        return "chat"
    if is_built_here(tokenizer):
        return "plain"
    return "pair" if tokenizer.num_special_tokens_to_add(pair=True) > 1 else "plain"


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    turns: Turns,
    response: str,
    encoding: Literal["chat", "pair", "plain"],
    room: int | None,
) -> tuple[list[int], list[int] | None, int]:
    """Token ids of a conversation with its answer, cut to `room` tokens where that is given.

    `chat` is what the chat template writes, to its end. Text of the answer that looks like a
    special token stays text: no answer can close its turn and open another. `plain` is the prompt,
    the answer, and the token that ends it. `pair` is the tokenizer's own frame for two segments.

    Returns:
        Ids, segment ids (`pair`, where the model knows them), and how many tokens were cut: from
        the beginning of the prompt, a leading BOS apart, never from the answer.

    Raises:
        ModelError: a template that refuses the conversation, or an answer longer than the room.
    """
    text = render(turns)
    if encoding == "pair":
        return _pair(tokenizer, text, response, room)
    if encoding == "chat":
        before, answer = _chat(tokenizer, turns, response)
    else:
        before, answer = encode_prompt(tokenizer, text), _ended(tokenizer, response)
    cut = 0 if room is None else max(0, len(before) + len(answer) - room)
    if cut:
        first = before[:1] if before[:1] == [tokenizer.bos_token_id] else []
        if cut > len(before) - len(first):
            raise ModelError(
                f"an answer of {len(answer)} tokens leaves no room for its prompt in {room}"
            )
        before = [*first, *before[len(first) + cut :]]
    return [*before, *answer], None, cut


def _chat(
    tokenizer: PreTrainedTokenizerBase, turns: Turns, response: str
) -> tuple[list[int], list[int]]:
    """What stands before the answer, and the answer with what the template writes after it."""
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    shown = response
    if any(token in response for token in special):
        shown = _MARKER  # the answer is put in afterwards, as plain text
    rendered = _render(tokenizer, [*turns, {"role": "assistant", "content": shown}])
    before, found, after = rendered.rpartition(shown if shown.strip() else "\0")
    if shown is response:
        # one piece, as the model was trained: tokens may merge across the border
        whole = _ids(tokenizer, rendered)
        if not found:
            return whole, []
        size = min(len(_ids(tokenizer, before)), len(whole))
        return whole[:size], whole[size:]
    plain = tokenizer(response, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return _ids(tokenizer, before), [*plain, *_ids(tokenizer, after)]


def _pair(
    tokenizer: PreTrainedTokenizerBase, text: str, response: str, room: int | None
) -> tuple[list[int], list[int] | None, int]:
    framed = tokenizer(text, response)
    cut = 0 if room is None else max(0, len(framed["input_ids"]) - room)
    if cut:
        if cut > len(_ids(tokenizer, text)):
            size = len(_ids(tokenizer, response))
            raise ModelError(f"an answer of {size} tokens leaves no room for its prompt in {room}")
        tokenizer.truncation_side = "left"
        framed = tokenizer(text, response, truncation="only_first", max_length=room)
    segments = framed.get("token_type_ids")
    return list(framed["input_ids"]), None if segments is None else list(segments), cut


def _ended(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    if tokenizer.eos_token_id is not None:
        return encode_response(tokenizer, response)
    ids = tokenizer(response, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return list(ids)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _render(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> str:
    from jinja2 import TemplateError

    try:
        rendered: Any = tokenizer.apply_chat_template(list(turns), tokenize=False)
        return str(rendered)
    except (TemplateError, ValueError) as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise ModelError(
            f"the classifier's chat template does not take a conversation of {roles}: {error}"
        ) from error
