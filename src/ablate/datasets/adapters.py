"""Adapters: rows of public preference sets, each in its own schema, to groups of one form.

The field names are those of the dataset cards on the Hugging Face hub; the level files in
conf/dataset/ say of which.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ablate.datasets.chat import (
    Message,
    after_prompt,
    as_messages,
    check_messages,
    merged,
    parse_transcript,
    render,
)
from ablate.datasets.tables import Row

Record = Mapping[str, Any]
#: weights of the row's own scores, or None where the schema has one label only
Weights = Mapping[str, float] | None
#: separates the turns in prompts of HelpSteer2
_TURN = "<extra_id_1>"


class Unusable(ValueError):
    """A row that holds no comparison; the message is counted, so it is the same for like rows."""


@dataclass(frozen=True)
class Adapter:
    """How rows of a schema are read.

    `scored` says whether differences of scores mean something; `weighted` whether several scores
    per response are there to be weighed; `one_response` that a row holds one response, and rows in
    succession with equal prompts are one group.
    """

    columns: tuple[str, ...]
    read: Callable[[Record, Weights], tuple[tuple[Message, ...], list[tuple[str, float]]]]
    scored: bool
    weighted: bool = False
    one_response: bool = False


def groups(
    adapter: Adapter, records: Iterable[Record], weights: Weights, count: Callable[[str], None]
) -> Iterator[Row]:
    """The groups of a stream of rows; `count` hears of each row that holds no comparison."""
    waiting: Row | None = None
    for number, record in enumerate(records, start=1):
        try:
            row = _row(adapter, record, weights, number)
        except ValueError as error:
            count(str(error) if isinstance(error, Unusable) else "rows with a malformed prompt")
            continue
        if not adapter.one_response:
            yield row
        elif waiting is not None and waiting.prompt == row.prompt:
            waiting = replace(
                waiting,
                responses=waiting.responses + row.responses,
                scores=waiting.scores + row.scores,
            )
        else:
            if waiting is not None:
                yield waiting
            waiting = row
    if waiting is not None:
        yield waiting


def _row(adapter: Adapter, record: Record, weights: Weights, number: int) -> Row:
    messages, answers = adapter.read(record, weights)
    messages = check_messages(merged(messages))
    alone = len(messages) == 1 and messages[0]["role"] == "user"
    return Row(
        number,
        render(messages),
        [text for text, _ in answers],
        [score for _, score in answers],
        split=None,
        messages=None if alone else messages,
        source=_source(record.get("source")),
    )


def _source(value: Any) -> str | None:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _words(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Unusable("rows with an empty text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise Unusable("rows without a score")
    return float(value)


def _weighed(record: Record, weights: Weights) -> float:
    assert weights is not None
    return sum(weight * _number(record.get(name)) for name, weight in weights.items() if weight)


def _ultrafeedback(
    record: Record, weights: Weights
) -> tuple[tuple[Message, ...], list[tuple[str, float]]]:
    """`completions` of several models, those without a score left out.

    The instructions to the models differ between completions and are no part of the prompt.
    """
    answers = []
    for item in record["completions"] or []:
        with contextlib.suppress(Unusable):
            answers.append((_words(item.get("response")), _weighed(item, weights)))
    return as_messages(_words(record["instruction"])), answers


def _ultrafeedback_binarized(
    record: Record, weights: Weights
) -> tuple[tuple[Message, ...], list[tuple[str, float]]]:
    """`chosen` and `rejected` are whole conversations with a score each."""
    chosen = record["chosen"]
    if not isinstance(chosen, list) or len(chosen) < 2:
        raise Unusable("rows with an empty text")
    prompt = check_messages(chosen[:-1])
    try:
        texts = [after_prompt(record[side], prompt) for side in ("chosen", "rejected")]
    except ValueError:
        raise Unusable("rows whose two conversations part before the last answer") from None
    scores = [_number(record[f"score_{side}"]) for side in ("chosen", "rejected")]
    return prompt, list(zip(texts, scores, strict=True))


def _helpsteer2(
    record: Record, weights: Weights
) -> tuple[tuple[Message, ...], list[tuple[str, float]]]:
    """One response with five attributes; turns of the prompt follow `<extra_id_1>Speaker`."""
    first, *turns = _words(record["prompt"]).split(_TURN)
    messages = [{"role": "user", "content": first.strip()}]
    for turn in turns:
        speaker, _, content = turn.partition("\n")
        messages.append({"role": speaker.strip().lower(), "content": content.strip()})
    return tuple(messages), [(_words(record["response"]), _weighed(record, weights))]


def _helpsteer3(
    record: Record, weights: Weights
) -> tuple[tuple[Message, ...], list[tuple[str, float]]]:
    """`overall_preference` from -3 (the first is much better) to 3; half of it each as a score."""
    preference = _number(record["overall_preference"])
    return check_messages(record["context"]), [
        (_words(record["response1"]), -preference / 2),
        (_words(record["response2"]), preference / 2),
    ]


def _hh_rlhf(
    record: Record, weights: Weights
) -> tuple[tuple[Message, ...], list[tuple[str, float]]]:
    """Two transcripts that differ in the last answer of the assistant."""
    chosen, rejected = (parse_transcript(_words(record[side])) for side in ("chosen", "rejected"))
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise Unusable("rows without a last answer")
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("rows whose two conversations part before the last answer")
    return chosen[:-1], [(chosen[-1]["content"], 1.0), (rejected[-1]["content"], 0.0)]


def _nectar(
    record: Record, weights: Weights
) -> tuple[tuple[Message, ...], list[tuple[str, float]]]:
    """Seven answers with their ranks; rank 1 is the best, so the score is minus the rank."""
    answers = [
        (item["answer"].strip(), -_number(item["rank"]))
        for item in record["answers"] or []
        if isinstance(item.get("answer"), str) and item["answer"].strip()
    ]
    return parse_transcript(_words(record["prompt"])), answers


ADAPTERS: dict[str, Adapter] = {
    "ultrafeedback": Adapter(
        ("instruction", "completions"), _ultrafeedback, scored=True, weighted=True
    ),
    "ultrafeedback_binarized": Adapter(
        ("chosen", "rejected", "score_chosen", "score_rejected"),
        _ultrafeedback_binarized,
        scored=True,
    ),
    "helpsteer2": Adapter(
        ("prompt", "response"), _helpsteer2, scored=True, weighted=True, one_response=True
    ),
    "helpsteer3": Adapter(
        ("context", "response1", "response2", "overall_preference"), _helpsteer3, scored=True
    ),
    "hh_rlhf": Adapter(("chosen", "rejected"), _hh_rlhf, scored=False),
    "nectar": Adapter(("prompt", "answers"), _nectar, scored=False),
}
