"""Identities: sha256 over canonical JSON of plain data, and nothing but plain data."""

import hashlib
import json
import math
from typing import Any

#: 128 bits: no collision to fear in any store, and paths stay readable
IDENTITY_LENGTH = 32


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no white space, shortest floats.

    Anything that is not plain data (str, int, float, bool, None, list, dict with str keys) is an
    error rather than its `repr`, which could hold an address and never be found again. Infinite
    and undefined floats are errors too; 1 and 1.0 stay different, so types belong to validation.

    Raises:
        TypeError: names the path of the offending value.
    """
    _check(value, "$")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """The identity of plain data: the first 128 bits of its canonical JSON's sha256, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:IDENTITY_LENGTH]


def _check(value: Any, path: str) -> None:
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{path}: {value} has no canonical form")
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]")
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{path}: key {key!r} is not a string")
            _check(item, f"{path}.{key}")
        return
    raise TypeError(f"{path}: {type(value).__name__} is not plain data")
