"""Which K of a prompt's N responses enter the loss."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ablate.errors import ConfigError, DataError

How = Literal["first", "paper", "best_worst"]


def select_indices(
    scores: ArrayLike | None, k: int, how: How, key: tuple[int, str], n: int | None = None
) -> list[int]:
    """Indices of the K selected responses, in the order in which they were chosen.

    Each rule is nested: with the same key, the selection for K is the beginning of the one for
    K + 1 (`best_worst`: from K = 2 on). Equal scores are ordered by a draw from the key, so that
    ties favour no position.

    - `first`: the first K.
    - `paper`: the best and K - 1 random others (arXiv 2502.00203, section 5).
    - `best_worst`: the best, the worst, then the best and the worst of what is left, and so on.

    Args:
        scores: float[N], higher is better; None is allowed with `first`.
        k: how many to select.
        key: (seed, prompt id); the same key gives the same draw.
        n: N, needed only where there are no scores.

    Raises:
        ConfigError: K below 1 or above N, an unknown rule, or a rule that needs scores.
        DataError: a score that is not finite.
    """
    if how not in ("first", "paper", "best_worst"):
        raise ConfigError(f"select={how!r} is unknown; known are first, paper, best_worst")
    values = None if scores is None else np.asarray(scores, dtype=np.float64)
    total = len(values) if values is not None else n
    if total is None:
        raise ConfigError("without scores the number of responses must be given")
    if not 1 <= k <= total:
        raise ConfigError(
            f"K={k} responses asked for, but prompt {key[1]!r} has {total}; lower num_responses.k "
            "or raise dataset.pool.num_responses"
        )
    if how == "first":
        return list(range(k))
    if values is None:
        raise ConfigError(f"select={how} needs a score for every response; use select=first")
    if not np.isfinite(values).all():
        raise DataError(f"prompt {key[1]!r} has a score that is not finite: {values.tolist()}")
    shuffled = _generator(key).permutation(total)
    ranked = shuffled[np.argsort(-values[shuffled], kind="stable")]
    if how == "paper":
        best = int(ranked[0])
        others = [int(index) for index in shuffled if index != best]
        return [best, *others[: k - 1]]
    return _from_both_ends(ranked.tolist())[:k]


def _generator(key: tuple[int, str]) -> np.random.Generator:
    text = f"select|{key[0]}|{key[1]}".encode()
    number = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=number))


def _from_both_ends(ranked: Sequence[int]) -> list[int]:
    chosen: list[int] = []
    low, high = 0, len(ranked) - 1
    while low <= high:
        chosen.append(ranked[low])
        if high > low:
            chosen.append(ranked[high])
        low, high = low + 1, high - 1
    return chosen
