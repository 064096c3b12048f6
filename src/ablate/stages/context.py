"""What a stage's work is handed: its parameters, its inputs' folders, a place for its output."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.config.run import RunConfig

#: (done, total, latest metrics)
Report = Callable[[int, int, dict[str, float]], None]
#: (step, metrics): one line of training metrics for trackers
Log = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Context:
    """Handed to `run(context)` of a stage module.

    Work reads only `params` and `inputs` for anything that can change its result; `run` tells
    where external files lie and what the machine offers. Where several processes train the
    stage, each is handed a context; only one `leads`, and the others return when the training
    has ended: what they write is thrown away.
    """

    params: dict[str, Any]
    inputs: dict[str, Path]
    out: Path
    run: RunConfig
    report: Report
    log: Log
    leads: bool = True
    #: where a training is saved when the scheduler wants the machine back, and found again
    partial: Path | None = None
    #: tokens of a forward pass and how often they were halved, where memory ran out before
    budget: dict[str, int] | None = None


@contextmanager
def isolated_generators(seed: int) -> Iterator[None]:
    """Seeds every global generator for the block and restores them afterwards.

    A stage's result then depends on nothing that ran before it: cache warm or cold is the same
    run.
    """
    import random

    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
