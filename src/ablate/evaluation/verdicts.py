"""Judging with a memory: each thing is judged once, whoever asks, and every verdict is checked."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ablate.config.identity import digest
from ablate.errors import JudgeError
from ablate.store.files import write_json
from ablate.store.verdicts import Verdicts

ABOUT = "judge.json"

#: plain data: what a source is shown, and nothing else
Item = dict[str, Any]


class Source(Protocol):
    """What gives verdicts and costs something: a model, an endpoint."""

    #: what a person calls it, in messages
    name: str
    #: items so far whose prompt was cut to fit
    truncated: int

    def verdicts(self, items: Sequence[Item]) -> Iterator[tuple[int, float]]:
        """Places in `items` with their verdicts, each as soon as it is there, in any order."""
        ...


@dataclass
class Tally:
    """How much was judged, kept in the results of stages."""

    #: answers
    judged: int = 0
    #: items (answers, or comparisons of two) that were put to the source, and found on disk
    asked: int = 0
    from_cache: int = 0
    #: asked items whose prompt was cut to fit the source
    truncated: int = 0
    seconds: float = 0.0

    @contextlib.contextmanager
    def timed(self, answers: int) -> Iterator[None]:
        """Counts so many answers, and the time of the block."""
        started = time.monotonic()
        yield
        self.judged += answers
        self.seconds += time.monotonic() - started

    def plain(self) -> dict[str, Any]:
        return {**vars(self), "seconds": round(self.seconds, 3)}


class Remembered:
    """A source with its verdicts on disk; an item that comes twice is asked once.

    Args:
        memory: holds a folder for each judge.
        judge: the judge's identity, plain data; judge.json in the folder tells it to a person.
    """

    def __init__(self, source: Source, memory: Path, judge: dict[str, Any]) -> None:
        self.source, self.tally = source, Tally()
        self.judge, self.folder = judge, memory / digest(judge)
        self.known: dict[str, float] | None = None

    def verdicts(self, items: Sequence[Item]) -> NDArray[np.float64]:
        """float[N], the verdict on each item.

        What the source answered is kept even where it fails in the end.

        Raises:
            JudgeError: the source failed, gave no finite number, or left something out.
        """
        if self.known is None:
            self.known = Verdicts(self.folder).read()
        known = self.known
        keys = [digest(item) for item in items]
        missing = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
        self.tally.from_cache += len(set(keys)) - len(missing)
        self.tally.asked += len(missing)
        if missing:
            self._ask(list(missing), list(missing.values()), known)
        return np.array([known[key] for key in keys], dtype=np.float64)

    def _ask(self, keys: list[str], items: list[Item], known: dict[str, float]) -> None:
        if not (self.folder / ABOUT).exists():
            write_json(self.folder / ABOUT, self.judge)
        writer = Verdicts(self.folder)
        try:
            for place, value in self.source.verdicts(items):
                if not math.isfinite(value):
                    raise JudgeError(f"{self.source.name} gave {value}, which is no score")
                known[keys[place]] = float(value)
                writer.add(keys[place], float(value))
        except JudgeError as error:
            kept = len([key for key in keys if key in known])
            if not kept:
                raise
            raise JudgeError(
                f"{error}\n{kept} of {len(keys)} verdicts are kept: the same command again asks "
                "only for the others"
            ) from error
        finally:
            writer.close()
            self.tally.truncated = self.source.truncated
        left = [key for key in keys if key not in known]
        if left:
            raise JudgeError(
                f"{self.source.name} gave {len(keys) - len(left)} verdicts on {len(keys)} items"
            )
