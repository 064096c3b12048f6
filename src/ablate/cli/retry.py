"""`ablate retry`: runs of a sweep that failed, were lost or never began, once more as frozen."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from ablate.cli.slurm_sweep import submit_and_tell, wait
from ablate.cli.store_words import split_words
from ablate.cli.sweep import run_pool
from ablate.cli.usage import STORE, Usage
from ablate.config.launcher import slurm_config
from ablate.errors import ConfigError
from ablate.launch import failed
from ablate.launch.hopeless import cancel_hopeless
from ablate.launch.jobs import JOB_KINDS
from ablate.launch.launches import launching
from ablate.launch.local import default_workers
from ablate.launch.pools import at_work
from ablate.launch.status import sweep_status
from ablate.launch.sweep import find_sweep, thaw_sweep
from ablate.stages.registry import KINDS
from ablate.store.sweeps import read_sweep

USAGE = Usage(
    "ablate retry [SWEEP] [results_dir=DIR]",
    "Runs what failed, was lost or never began in a sweep once more, as it was frozen.",
    words=(
        ("SWEEP", "name or beginning of the id; without it the newest"),
        STORE,
    ),
    examples=("ablate retry", "ablate retry quick"),
)


def main(argv: Sequence[str]) -> int:
    """Gives what is neither in the store nor under way to the launcher that had it before."""
    layout, words, flags = split_words(argv, USAGE)
    if len(words) > 1 or flags:
        raise ConfigError(f"retry takes one sweep (usage: {USAGE})")
    console = Console(soft_wrap=True)
    folder = find_sweep(layout, words[0] if words else None)
    for message in cancel_hopeless(folder):
        console.print(message, highlight=False)
    statuses = sweep_status(folder)
    again = ("failed", "lost", "missing", "stuck", "unknown")
    wanted = [s for s in statuses if s.state in again]
    if not wanted:
        console.print(f"sweep {folder.name}: nothing failed, nothing is missing")
        return 0
    whole, frozen = thaw_sweep(folder), read_sweep(folder)
    plans = {s.identity: whole.plans[s.identity] for s in wanted if s.identity in whole.plans}
    sweep = replace(whole, plans=plans)
    if frozen.launcher == "slurm":
        config = slurm_config(frozen.options, [*KINDS, *JOB_KINDS])
        with launching(sweep.layout, sweep.name):
            submit_and_tell(console, sweep, config)
        if config.wait:
            wait(console, sweep, config.poll_seconds)
        return 0
    failed.clear(folder)
    workers = frozen.options["workers"] or default_workers(list(whole.plans.values()))
    # a sweep frozen before there were restarts names none
    restarts = {"max_restarts": 0, **frozen.options}["max_restarts"]
    with at_work(sweep.layout, sweep.name):
        outcomes = run_pool(console, sweep, workers, restarts)
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0
