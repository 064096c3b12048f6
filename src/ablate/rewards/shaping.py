"""Length-aware shaping of 0/1 rewards, as pure functions, and the one object that applies them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate.config.shaping import ShapingConfig
from ablate.errors import DataError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def hapo(
    correct: Bools, lengths: Floats, history: float | None, weight: float, floor: float
) -> Floats:
    """Verdict + w·cos(π/2·L/h) for one prompt, h its shortest right answer so far (2505.11225).

    The cosine is -1 from L = 2h on, at least `floor` for a right answer and at most 0 for a wrong
    one; without history there is none. All bool/float[K].
    """
    if history is None:
        return correct.astype(np.float64)
    cosine = np.cos(np.pi / 2 * np.minimum(lengths / history, 2.0))
    return correct + weight * np.where(correct, np.maximum(floor, cosine), np.minimum(0.0, cosine))


def slpo(correct: Bools, lengths: Floats, weight: float) -> Floats:
    """1 + α(L_max - L)/(L_max - L_min) for each right answer of a prompt (2511.22891).

    Shortest and longest are those of the right answers; 1 where there is one or all are equally
    long, 0 for wrong answers. All bool/float[K].
    """
    reward = correct.astype(np.float64)
    right = lengths[correct]
    if len(right) < 2 or right.min() == right.max():
        return reward
    reward[correct] += weight * (right.max() - right) / (right.max() - right.min())
    return reward


def length_penalty(correct: Bools, lengths: Floats, weight: float) -> Floats:
    """1 - α·σ((L - mean)/sd) for each right answer, mean and sd over these (2505.18086).

    σ is ½ where all right answers are equally long; wrong answers get 0. All bool/float[K].
    """
    reward = correct.astype(np.float64)
    right = lengths[correct]
    if len(right):
        deviation = right.std()
        z = (right - right.mean()) / (deviation if deviation > 0 else 1.0)
        reward[correct] = 1 - weight / (1 + np.exp(-z))
    return reward


def top_share(accuracies: Sequence[float], share: float) -> Bools:
    """bool[P]: the ⌈share·P⌉ prompts with the highest accuracy (at least one); first come first."""
    count = max(1, int(np.ceil(share * len(accuracies) - 1e-9)))
    chosen = np.zeros(len(accuracies), dtype=bool)
    chosen[np.argsort(-np.asarray(accuracies), kind="stable")[:count]] = True
    return chosen


def truncation(correct: Bools, lengths: Floats, limit: int) -> Floats:
    """1 for a right answer of at most `limit` tokens, else 0 (2510.15110). All bool/float[K]."""
    return (correct & (lengths <= limit)).astype(np.float64)


def budget_at(step: int, start: int, decay: float, interval: int) -> float:
    """Tokens allowed at an optimizer step, counted from 0: max(1, B₀·γ^⌊t/T⌋) (2508.08940)."""
    return max(1.0, start * decay ** (step // interval))


def budget(correct: Bools, lengths: Floats, allowed: float, weight: float, form: str) -> Floats:
    """Verdict + w·(1 - |L - B|/B)₊, or full up to B (`band`), right or wrong. Not verified."""
    away = (lengths - allowed) / allowed
    if form == "triangle":
        away = np.abs(away)
    return correct + weight * np.clip(1 - away, 0.0, 1.0)


class Shaper:
    """Applies a configured shaper to batches of responses.

    What is called with must be the whole batch of a step, on every process alike: GRPO-λ ranks
    its prompts, HAPO remembers its right answers.
    """

    def __init__(self, config: ShapingConfig) -> None:
        self.config = config
        #: HAPO: prompt -> tokens of its shortest right answer so far
        self._shortest: dict[str, float] = {}

    def shape(
        self, prompts: Sequence[str], rewards: Floats, lengths: Sequence[int], step: int
    ) -> Floats:
        """float[R]: the shaped reward of each response, in any order of the rows.

        Args:
            prompts: [R], the id of the prompt that each response answers.
            rewards: float[R], 1 for a right and 0 for a wrong answer.
            lengths: int[R], tokens with the end token.
            step: optimizer steps taken so far.

        HAPO compares with the batches before this one, and then takes it in (as its authors do).

        Raises:
            DataError: rewards that are no verdicts (`shaping=none` takes any).
        """
        rewards = np.asarray(rewards, dtype=np.float64)
        if self.config.kind == "none":
            return rewards
        odd = rewards[(rewards != 0) & (rewards != 1)]
        if len(odd):
            raise DataError(
                f"shaping={self.config.name} shapes verdicts, 1 for right and 0 for wrong, but "
                f"one reward is {odd[0]:g}. Use shaping=none, or a reward that verifies"
            )
        correct, tokens = rewards == 1, np.asarray(lengths, dtype=np.float64)
        names = sorted(set(prompts))
        place_of = {name: place for place, name in enumerate(names)}
        index = np.array([place_of[name] for name in prompts], dtype=np.int64)
        order = np.argsort(index, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(index[order])) + 1)
        shaped = rewards.copy()
        one = self._of_prompt(names, [float(correct[rows].mean()) for rows in groups], step)
        for place, rows in enumerate(groups):
            shaped[rows] = one(place, correct[rows], tokens[rows])
        if self.config.kind == "hapo":
            self._remember(names, groups, correct, tokens)
        return shaped

    def _of_prompt(
        self, names: Sequence[str], accuracies: Sequence[float], step: int
    ) -> Callable[[int, Bools, Floats], Floats]:
        """The function of one prompt: (its place, correct, lengths) -> rewards."""
        c = self.config
        match c.kind:
            case "hapo":
                assert c.weight is not None
                assert c.correct_floor is not None
                w, floor = c.weight, c.correct_floor
                return lambda p, right, long: hapo(
                    right, long, self._shortest.get(names[p]), w, floor
                )
            case "slpo":
                assert c.weight is not None
                alpha = c.weight
                return lambda _, right, long: slpo(right, long, alpha)
            case "grpo_lambda":
                assert c.weight is not None
                assert c.share is not None
                alpha, chosen = c.weight, top_share(accuracies, c.share)
                return lambda p, right, long: (
                    length_penalty(right, long, alpha) if chosen[p] else right.astype(np.float64)
                )
            case "truncation":
                assert c.limit is not None
                limit = c.limit
                return lambda _, right, long: truncation(right, long, limit)
            case "budget":
                assert c.start is not None
                assert c.decay is not None
                assert c.interval is not None
                assert c.weight is not None
                assert c.form is not None
                weight, form = c.weight, c.form
                allowed = budget_at(step, c.start, c.decay, c.interval)
                return lambda _, right, long: budget(right, long, allowed, weight, form)
            case _:
                return lambda _, right, long: right.astype(np.float64)

    def _remember(
        self, names: Sequence[str], groups: list[NDArray[Any]], correct: Bools, lengths: Floats
    ) -> None:
        for name, rows in zip(names, groups, strict=True):
            right = lengths[rows][correct[rows]]
            if len(right):
                self._shortest[name] = float(min(self._shortest.get(name, np.inf), right.min()))

    def state_dict(self) -> dict[str, float]:
        """Plain numbers that a checkpoint can hold; empty for shapers that remember nothing."""
        return dict(self._shortest)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a checkpoint."""
        self._shortest = {name: float(value) for name, value in state.items()}
