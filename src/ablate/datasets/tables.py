"""Reading a preference file: every row is checked, and all that is wrong is told by row number."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.datasets.chat import Conversation, Message, after_prompt, check_messages, render
from ablate.errors import DataError

_PAIR = ("prompt", "chosen", "rejected")
_GROUP = ("prompt", "responses", "scores")
_OPTIONAL = ("split", "source", "gold", "rationale", "reference")
_SHOWN = 5
#: a row's number, and what it holds
_Record = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One checked group: a prompt, its responses and what is known of them.

    `number` is as a person counts (lines or rows from 1); `prompt` is plain text, `messages` are
    there where it was given as messages; `gold` is a response to learn by heart, `rationale` a text
    that says why the better response is better, `reference` the right answer that a verifier knows.
    """

    number: int
    prompt: str
    responses: list[str]
    scores: list[float]
    split: str | None
    messages: tuple[Message, ...] | None = None
    source: str | None = None
    gold: str | None = None
    rationale: str | None = None
    reference: str | None = None

    @property
    def conversation(self) -> Conversation:
        """The prompt as a tokenizer takes it."""
        return self.prompt if self.messages is None else self.messages


@dataclass(frozen=True)
class Table:
    """The rows of one file and the sha256 of its bytes; pairs have no scores, only an order."""

    path: Path
    sha256: str
    has_scores: bool
    rows: list[Row]


def read_table(
    path: Path, splits: tuple[str, ...], field: str, problems: list[str] | None = None
) -> Table:
    """Read and check a `.jsonl` or `.parquet` file.

    Columns: `prompt`, with `chosen` and `rejected` or with `responses` and `scores`, and
    optionally `split` (one of `splits`), `source`, `gold`, `rationale` and `reference`. Others are
    passed over. Prompts and responses are texts or lists of {role, content}. `field` is the
    configuration field that gave the path, for the messages. What is wrong with rows is added to
    `problems` where it is given, and the table holds the others.
    Raises `DataError` naming the file and the rows concerned.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file; set dataset.{field} to a .jsonl or .parquet file")
    if path.is_dir():
        raise DataError(f"{path} is a folder; set dataset.{field} to one .jsonl or .parquet file")
    readers: dict[str, Callable[[Path, bytes, list[tuple[int, str]]], list[_Record]]]
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise DataError(f"{path}: unknown kind of file '{path.suffix}'; use .jsonl or .parquet")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    wrong: list[tuple[int, str]] = []
    records = readers[path.suffix](path, content, wrong) if content else []
    if problems is None or not records:
        _refuse(path, wrong, "lines that are not JSON objects")
    if not records:
        raise DataError(f"{path}: the file is empty; it needs at least one row")
    columns = _columns(path, records)
    rows = []
    for number, record in records:
        try:
            rows.append(_check(number, record, columns, splits))
        except ValueError as error:
            wrong.append((number, str(error)))
    if problems is None:
        _refuse(path, wrong, "rows that cannot be used")
    else:
        problems += [f"{path.name}, row {number}: {what}" for number, what in sorted(wrong)]
    return Table(path, hashlib.sha256(content).hexdigest(), columns == _GROUP, rows)


def _read_jsonl(path: Path, content: bytes, problems: list[tuple[int, str]]) -> list[_Record]:
    try:
        # not splitlines: a prompt may hold a Unicode line separator
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: row {row} is not UTF-8 text") from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append((number, f"{error.msg} at column {error.colno}"))
            continue
        if isinstance(record, dict):
            records.append((number, record))
        else:
            problems.append((number, f"a JSON object is needed, not {_kind(record)}"))
    return records


def _read_parquet(path: Path, content: bytes, problems: list[tuple[int, str]]) -> list[_Record]:
    # imported here: not needed by the worlds, and slow
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    wanted = [c for c in table.column_names if c in {*_PAIR, *_GROUP, *_OPTIONAL}]
    if table.num_rows and not wanted:
        _refuse_columns(path, table.column_names)
    return list(enumerate(table.select(wanted).to_pylist(), start=1))


def _columns(path: Path, records: list[_Record]) -> tuple[str, ...]:
    """Which of the two forms the file has, from the columns of its rows."""
    of_form: dict[tuple[str, ...], list[int]] = {_GROUP: [], _PAIR: []}
    for number, record in records:
        # a row may have the columns of both; those of groups say more
        for form, numbers in of_form.items():
            if all(record.get(name) is not None for name in form):
                numbers.append(number)
                break
    if all(of_form.values()):
        raise DataError(
            f"{path} mixes two forms: responses with scores in {_rows_named(of_form[_GROUP])}, "
            f"chosen and rejected in {_rows_named(of_form[_PAIR])}. A file has one form, because "
            "pairs have an order and no scores: keep one of them, or write pairs as groups "
            '("responses": [chosen, rejected], "scores": [1, 0])'
        )
    found = list(dict.fromkeys(name for _, record in records for name in record))
    for columns in (_GROUP, _PAIR):
        if all(name in found for name in columns):
            return columns
    return _refuse_columns(path, found)


def _rows_named(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"row{'s' * (len(numbers) > 1)} {shown}{more}"


def _refuse_columns(path: Path, found: list[str]) -> tuple[str, ...]:
    lacking = min(([c for c in form if c not in found] for form in (_PAIR, _GROUP)), key=len)
    raise DataError(
        f"{path}: lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}. "
        f"Found: {', '.join(found) or 'none'}. "
        f"Needed: {', '.join(_PAIR)}; or {', '.join(_GROUP)}"
    )


def _check(
    number: int, record: dict[str, Any], columns: tuple[str, ...], splits: tuple[str, ...]
) -> Row:
    """The row, or ValueError saying what is wrong with it."""
    lacking = [name for name in columns if record.get(name) is None]
    if lacking:
        raise ValueError(f"no {' and no '.join(lacking)}")
    prompt, messages = _prompt(record["prompt"])
    conversation: Conversation = prompt if messages is None else messages
    if columns == _PAIR:
        responses = [_response(name, record[name], conversation) for name in ("chosen", "rejected")]
        scores = [1.0, 0.0]
    else:
        for name in ("responses", "scores"):
            if not isinstance(record[name], list):
                raise ValueError(f"{name} must be a list, not {_kind(record[name])}")
        responses = [
            _response(f"responses[{i}]", text, conversation)
            for i, text in enumerate(record["responses"])
        ]
        scores = [_score(f"scores[{i}]", score) for i, score in enumerate(record["scores"])]
        if len(responses) != len(scores):
            raise ValueError(f"{len(responses)} responses but {len(scores)} scores")
        if len(responses) < 2:
            raise ValueError(f"{len(responses)} response(s); at least 2 are needed to prefer one")
    split = record.get("split")
    if "split" in record and split not in splits:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(splits)}")
    gold = record.get("gold")
    source, rationale, reference = (
        None if record.get(name) is None else _text(name, _plain(record[name]))
        for name in ("source", "rationale", "reference")
    )
    return Row(
        number,
        prompt,
        responses,
        scores,
        split,
        messages=messages,
        source=source,
        gold=None if gold is None else _response("gold", gold, conversation),
        rationale=rationale,
        reference=reference,
    )


def _plain(value: Any) -> Any:
    """A number as text: a reference answer is often one."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _prompt(value: Any) -> tuple[str, tuple[Message, ...] | None]:
    """A prompt as plain text, and its messages where it was given as such."""
    if not isinstance(value, list):
        return _text("prompt", value), None
    try:
        messages = check_messages(value)
    except ValueError as error:
        raise ValueError(f"prompt: {error}") from None
    text = _text("prompt", render(messages))
    # one user message is the same prompt as its text
    return text, None if len(messages) == 1 and messages[0]["role"] == "user" else messages


def _response(name: str, value: Any, prompt: Conversation) -> str:
    """A response given as text, or as messages that may repeat the prompt."""
    if not isinstance(value, list):
        return _text(name, value)
    try:
        return _text(name, after_prompt(value, prompt))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string or messages, not {_kind(value)}")
    if not value.strip():
        raise ValueError(f"{name} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds half of a character (a lone surrogate)") from None
    return value


def _score(name: str, value: Any) -> float:
    if value is None:
        # pandas writes NaN inside a list as a null
        raise ValueError(f"{name} is missing or NaN; scores must be finite")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {_kind(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; scores must be finite")
    return float(value)


def _kind(value: Any) -> str:
    """How a person calls the type of a value."""
    kinds = {"str": "a string", "list": "a list", "dict": "an object", "NoneType": "nothing"}
    return kinds.get(type(value).__name__, f"a {type(value).__name__}")


def _refuse(path: Path, problems: list[tuple[int, str]], what: str) -> None:
    if problems:
        shown = "; ".join(f"row {number}: {why}" for number, why in problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(f"{path}: {what}: {shown}{more}")
