"""The common base of every configuration node: strict, immutable, plain data."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Node(BaseModel):
    """A node of the frozen configuration.

    Unknown keys are errors and no field has a default here: a default lives in the YAML level
    that a person reads. A field added after results exist may carry `= neutral(value)`: while it
    holds that value it is left out of every identity, and a run that was frozen without it has that
    value, so that older results stay valid.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """The plain data that enters a stage's identity (neutral fields left out)."""
        plain: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            value = getattr(self, name)
            if isinstance(extra, dict) and "neutral" in extra and value == extra["neutral"]:
                continue
            plain[name] = _plain(value)
        return plain

    @classmethod
    def with_neutral(cls, plain: dict[str, Any]) -> dict[str, Any]:
        """The data of an identity with the neutral values it left out; nested nodes stay."""
        left_out = {
            name: field.json_schema_extra["neutral"]
            for name, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, dict) and "neutral" in field.json_schema_extra
        }
        return {**left_out, **plain}


def neutral(value: Any, **limits: Any) -> Any:
    """A field added after results exist: left out of every identity while it holds `value`.

    That is also what a run means that was frozen before there was the field.
    """
    return Field(value, json_schema_extra={"neutral": value}, **limits)


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        return value.identity()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def explain(error: ValidationError, root: str = "") -> str:
    """One line per mistake: the field as it is typed on the command line, the rule, the value."""
    lines = []
    for item in error.errors():
        path = ".".join(part for part in (root, *_typed(item["loc"])) if part)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            lines.append(f"{path}: missing")
        elif item["type"] == "extra_forbidden":
            lines.append(f"{path}: there is no such setting")
        elif item["type"] == "value_error":
            lines.append(f"{path}: {message}" if path else message)
        else:
            lines.append(f"{path}: {message[0].lower()}{message[1:]} (got {item['input']!r})")
    return "\n".join(lines)


#: nodes of a run that are of several kinds: no one types which
_CHOSEN_BY_KIND = ("dataset", "judge", "sampler")
#: where any name may stand, also that of a kind
_NAMED = ("members", "terms")
#: pydantic puts the kind of a reward source into the path of its fields, wherever it is nested
_KINDS = ("labels", "gold", "explicit", "implicit", "verifier", "length",
          "format", "ensemble", "pairwise", "gpm", "composite", "vector")  # fmt: skip


def _typed(place: Sequence[Any]) -> list[str]:
    """The path of a field as a person types it."""
    parts = [str(part) for part in place]
    if parts and parts[0] in _CHOSEN_BY_KIND:
        return [parts[0], *parts[2:]]
    return [
        part
        for number, part in enumerate(parts)
        if part not in _KINDS or (number and parts[number - 1] in _NAMED)
    ]
