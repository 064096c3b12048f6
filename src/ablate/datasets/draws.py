"""Random numbers and hashes that are keyed by what they are for, never by when they are drawn."""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

#: separates the parts of a key; no prompt holds it, so two keys never read the same
_SEPARATOR = "\x1f"


def _digest(*key: str | int) -> bytes:
    text = _SEPARATOR.join(str(part) for part in key)
    return hashlib.sha256(text.encode("utf-8")).digest()


def unit_hash(*key: str | int) -> float:
    """A number in [0, 1) that the key alone decides."""
    return int.from_bytes(_digest(*key)[:7], "big") / 2**56


def short_hash(*key: str | int) -> str:
    """Twelve hexadecimal digits that the key alone decides: a stable, readable id."""
    return _digest(*key).hex()[:12]


class Draws:
    """A stream of random choices that depends on nothing but its key.

    Built on `random.Random.random`, the one generator whose sequence Python promises to keep
    between versions, so that a world is the same world on every machine.
    """

    def __init__(self, *key: str | int) -> None:
        self._uniform = random.Random(int.from_bytes(_digest(*key), "big")).random

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return self._uniform()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._uniform() < probability

    def between(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int(self._uniform() * (high - low + 1))

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items, all equally likely."""
        return items[int(self._uniform() * len(items))]

    def pick_weighted(self, items: Sequence[Item], weights: Sequence[float]) -> Item:
        """One of the items, in proportion to its weight."""
        left = self._uniform() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            left -= weight
            if left < 0:
                return item
        return items[-1]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """The items in random order."""
        rest = list(items)
        for last in range(len(rest) - 1, 0, -1):
            other = self.between(0, last)
            rest[last], rest[other] = rest[other], rest[last]
        return rest
