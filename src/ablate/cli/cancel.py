"""`ablate cancel`: takes what is left of a sweep out of SLURM's queue; the store keeps the rest."""

from collections.abc import Sequence

from rich.console import Console

from ablate.cli.store_words import split_words
from ablate.errors import ConfigError
from ablate.launch import scheduler
from ablate.launch.slurm import held
from ablate.launch.sweep import find_sweep

USAGE = "ablate cancel [SWEEP] [results_dir=DIR]"


def main(argv: Sequence[str]) -> int:
    """Cancels the sweep's queued and running jobs."""
    layout, words, flags = split_words(argv, USAGE)
    if len(words) > 1 or flags:
        raise ConfigError(f"cancel takes one sweep (usage: {USAGE})")
    folder = find_sweep(layout, words[0] if words else None)
    jobs = sorted(set(held(folder).values()))
    scheduler.cancel(jobs)
    console = Console()
    console.print(
        f"sweep {folder.name}: {len(jobs)} jobs cancelled; `ablate retry {folder.name}` goes on",
        highlight=False,
    )
    return 0
