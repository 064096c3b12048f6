"""Which K of a prompt's N responses enter the loss."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ablate.config.selection import RULES, Select
from ablate.errors import ConfigError, DataError

Floats = NDArray[np.float64]


def select_indices(
    scores: ArrayLike | None,
    k: int,
    how: Select,
    key: tuple[int, str],
    n: int | None = None,
    *,
    names: Sequence[int] | None = None,
    rso_beta: float | None = None,
) -> list[int]:
    """Positions of the K selected responses, in the order in which they were chosen.

    Each rule is nested: with the same key, the selection for K is the beginning of the one for
    K + 1. Equal scores are ordered by a draw from the key, so that ties favour no position.

    - `first`: the first K. `random`: K drawn without replacement.
    - `paper`: the best and K - 1 random others (arXiv 2502.00203, section 5).
    - `best_worst`: the best, the worst, then the best and the worst of what is left, and so on.
    - `best_of_n`: the best K.
    - `max_variance`: the K whose scores have the largest variance (arXiv 2504.13818).
    - `rso`: statistical rejection sampling (arXiv 2309.06657) from the distribution that tilts
      the sampler's by exp(score / rso_beta).

    Args:
        scores: float[N], higher is better; None is allowed where the rule needs none.
        k: how many to select.
        key: (seed, prompt id); the same key gives the same draw.
        n: N, needed only where there are no scores.
        names: number of each response in the pool, all different; its place if None. With names,
            the order in which responses come changes nothing.
        rso_beta: temperature of `rso`, in units of the scores.

    Raises:
        ConfigError: K below 1 or above N, an unknown rule, or a rule that lacks what it needs.
        DataError: a score that is not finite.
    """
    if how not in RULES:
        raise ConfigError(f"select={how!r} is unknown; known are {', '.join(RULES)}")
    values = None if scores is None else np.asarray(scores, dtype=np.float64)
    total = len(values) if values is not None else n
    if total is None:
        raise ConfigError("without scores the number of responses must be given")
    if not 1 <= k <= total:
        raise ConfigError(
            f"K={k} responses asked for, but prompt {key[1]!r} has {total}; lower num_responses.k "
            "or raise dataset.pool.num_responses"
        )
    numbers = list(range(total)) if names is None else [int(name) for name in names]
    order = sorted(range(total), key=numbers.__getitem__)
    if RULES[how] == "nothing":
        chosen = list(range(total)) if how == "first" else _shuffled(key, total).tolist()
        return [order[place] for place in chosen[:k]]
    if values is None:
        raise ConfigError(f"select={how} needs a score for every response; use select=first")
    if not np.isfinite(values).all():
        raise DataError(f"prompt {key[1]!r} has a score that is not finite: {values.tolist()}")
    values = values[order]
    if how == "rso":
        if rso_beta is None:
            raise ConfigError("select=rso needs num_responses.rso_beta")
        chosen = _rejection_sampled(values, k, key, [numbers[place] for place in order], rso_beta)
    else:
        shuffled = _shuffled(key, total)
        ranked = shuffled[np.argsort(-values[shuffled], kind="stable")].tolist()
        chosen = _BY_RANK[how](ranked, shuffled.tolist(), values, k)
    return [order[place] for place in chosen]


def gap(scores: ArrayLike) -> float:
    """The best score less the worst, of float[N] scores."""
    return float(np.ptp(np.asarray(scores, dtype=np.float64)))


def drawn_numbers(key: tuple[int, str], names: Sequence[int]) -> list[int]:
    """A number below 2^62 for each response, drawn from the key and its number in the pool.

    Stands for the number where that says something: files often hold the better response first.
    """
    return [int(_generator(f"pairs|{key[0]}|{name}|{key[1]}").integers(2**62)) for name in names]


def _generator(text: str) -> np.random.Generator:
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=number))


def _shuffled(key: tuple[int, str], total: int) -> NDArray[np.int64]:
    return _generator(f"select|{key[0]}|{key[1]}").permutation(total)


def _paper(ranked: list[int], shuffled: list[int], values: Floats, k: int) -> list[int]:
    others = [place for place in shuffled if place != ranked[0]]
    return [ranked[0], *others[: k - 1]]


def _best_worst(ranked: list[int], shuffled: list[int], values: Floats, k: int) -> list[int]:
    chosen: list[int] = []
    low, high = 0, len(ranked) - 1
    while low <= high:
        chosen.append(ranked[low])
        if high > low:
            chosen.append(ranked[high])
        low, high = low + 1, high - 1
    return chosen[:k]


def _best_of_n(ranked: list[int], shuffled: list[int], values: Floats, k: int) -> list[int]:
    return ranked[:k]


def _max_variance(ranked: list[int], shuffled: list[int], values: Floats, k: int) -> list[int]:
    """The best, then again and again whichever end of what is left is farther from the mean.

    The result is optimal for every K. The variance is a convex function of one score, so some
    optimal set is the best i and the worst K - i. Let S be one for K, T one for K + 1 with more
    of the best than S and one response: its middle one, x, has rank i + 1 or below. If x lies
    above the mean of the others of T, S with its next best gains at least as much from a smaller
    mean; if below, T may give x for its next worst. So some optimal set for K + 1 is S and the
    next at one of its ends, and the gain K/(K+1) (x - mean)^2 says which.
    """
    centred = values - values.mean()  # so that a common shift costs no digits
    chosen = [ranked[0]]
    total, low, high = float(centred[ranked[0]]), 1, len(ranked) - 1
    while len(chosen) < k:
        mean = total / len(chosen)
        if centred[ranked[low]] - mean > mean - centred[ranked[high]]:
            chosen.append(ranked[low])
            low += 1
        else:
            chosen.append(ranked[high])
            high -= 1
        total += float(centred[chosen[-1]])
    return chosen


_BY_RANK: dict[str, Callable[[list[int], list[int], Floats, int], list[int]]] = {
    "paper": _paper,
    "best_worst": _best_worst,
    "best_of_n": _best_of_n,
    "max_variance": _max_variance,
}


def _rejection_sampled(
    values: Floats, k: int, key: tuple[int, str], numbers: list[int], beta: float
) -> list[int]:
    """Rounds over what is left, in random order: accepted where u < exp((r - r_max)/beta).

    r_max is the best of what is left when the round begins, so a round accepts at least that one.
    The u of a response depends on the key, its number and the round alone.
    """
    # [N, rounds, 2]: the order within a round, and u
    noise = np.stack(
        [_generator(f"rso|{key[0]}|{number}|{key[1]}").random((k, 2)) for number in numbers]
    )
    chosen: list[int] = []
    left = list(range(len(values)))
    for turn in range(k):
        chance = np.exp((values[left] - values[left].max()) / beta)
        accepted = [p for p, c in zip(left, chance, strict=True) if noise[p, turn, 1] < c]
        chosen += sorted(accepted, key=lambda place: float(noise[place, turn, 0]))
        left = [place for place in left if place not in accepted]
        if len(chosen) >= k:
            break
    return chosen[:k]
