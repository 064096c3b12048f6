"""`ablate logs`: what a run of a sweep printed, its failed stage included."""

import sys
from collections.abc import Sequence

from ablate.cli.store_words import split_words
from ablate.cli.usage import STORE, Usage
from ablate.errors import ConfigError, StoreError
from ablate.launch.jobs import log_name, run_key
from ablate.launch.status import sweep_status
from ablate.store.sweeps import read_sweep, sweeps

USAGE = Usage(
    "ablate logs RUN [results_dir=DIR]",
    "Prints what a run of a sweep printed, its failed stage included.",
    words=(("RUN", "the beginning of a run's id, as `ablate status` lists it"), STORE),
    examples=("ablate logs 3fa9", "ablate logs 3fa9 | tail"),
)


def main(argv: Sequence[str]) -> int:
    """Prints the newest log of the run whose identity begins with RUN."""
    layout, words, flags = split_words(argv, USAGE)
    if len(words) != 1 or flags:
        raise ConfigError(f"logs takes the beginning of one run's id (usage: {USAGE})")
    for folder in reversed(sweeps(layout)):
        if not any(identity.startswith(words[0]) for identity in read_sweep(folder).runs):
            continue
        fitting = [s for s in sweep_status(folder) if s.identity.startswith(words[0])]
        if len(fitting) > 1:
            listed = ", ".join(status.identity[:12] for status in fitting[:8])
            raise StoreError(f"'{words[0]}' fits {len(fitting)} runs: {listed}")
        (found,) = fitting
        log = found.log or folder / "logs" / log_name(run_key(found.identity))
        if not log.exists():
            raise StoreError(
                f"run {found.identity[:12]} ({found.state}) has left no log in this sweep"
            )
        print(f"{log}\n", file=sys.stderr)
        sys.stdout.write(log.read_text(encoding="utf-8", errors="replace"))
        return 0
    raise StoreError(f"no run of any sweep in {layout.root} begins with '{words[0]}'")
