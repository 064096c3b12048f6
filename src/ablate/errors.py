"""Errors that are meant for the person at the keyboard, told apart from bugs."""

import difflib
from collections.abc import Iterable


class AblateError(Exception):
    """A mistake in what was asked for or an obstacle in the machine, said in one clear message.

    The command line prints the message without a traceback and exits with `exit_code`;
    `ABLATE_DEBUG=1` shows the traceback.
    """

    exit_code = 2


class ConfigError(AblateError):
    """The configuration asks for something unknown, contradictory or impossible."""


class MemoryShort(ConfigError):
    """Memory ran out in one of several processes, which can only begin again together.

    Args:
        budget: tokens of a forward pass to begin again with, and how often they were halved.
    """

    def __init__(self, budget: dict[str, int]) -> None:
        self.budget = budget
        tokens = budget["tokens_per_device"]
        super().__init__(
            f"memory does not suffice for training.tokens_per_device={2 * tokens} in one of "
            f"several processes. Try training.tokens_per_device={tokens}"
        )

    def __reduce__(self) -> tuple[type["MemoryShort"], tuple[dict[str, int]]]:
        # it comes to the process that watches through a pipe
        return MemoryShort, (self.budget,)


class DataError(AblateError):
    """A dataset, a stored table or a file does not hold what it promises."""


class ModelError(AblateError):
    """A model or tokenizer cannot be found, loaded, or cannot take the data."""


class JudgeError(AblateError):
    """A judge cannot be reached, or gives what is no score."""

    exit_code = 1


class StoreError(AblateError):
    """The results folder cannot be read or written, or holds a damaged entry."""


class SchedulerError(StoreError):
    """SLURM does not answer, or refuses."""


class StageFailed(AblateError):
    """A stage could not be computed; names the stage and keeps the cause."""

    exit_code = 1


def did_you_mean(given: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """` Did you mean 'dpo' or 'ipo'?`, the closest of the known names first; nothing if none is."""
    close = difflib.get_close_matches(given, list(dict.fromkeys(known)), n=most, cutoff=cutoff)
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
