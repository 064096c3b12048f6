"""`ablate retry`: runs of a sweep that failed, were lost or never began, once more as frozen."""

from collections.abc import Sequence

from rich.console import Console

from ablate.cli.slurm_sweep import submit_and_tell
from ablate.cli.store_words import split_words
from ablate.cli.sweep import run_pool
from ablate.config.launcher import slurm_config
from ablate.errors import ConfigError
from ablate.launch import failed, scheduler
from ablate.launch.local import default_workers
from ablate.launch.status import sweep_status
from ablate.launch.sweep import Sweep, find_sweep, launcher_of, thaw_sweep
from ablate.stages.registry import KINDS

USAGE = "ablate retry [SWEEP] [results_dir=DIR]"


def main(argv: Sequence[str]) -> int:
    """Gives what is neither in the store nor under way to the launcher that had it before."""
    layout, words, flags = split_words(argv, USAGE)
    if len(words) > 1 or flags:
        raise ConfigError(f"retry takes one sweep (usage: {USAGE})")
    console = Console(soft_wrap=True)
    folder = find_sweep(layout, words[0] if words else None)
    statuses = sweep_status(folder)
    wanted = [s for s in statuses if s.state in ("failed", "lost", "missing", "stuck")]
    if not wanted:
        console.print(f"sweep {folder.name}: nothing failed, nothing is missing")
        return 0
    scheduler.cancel([s.job for s in wanted if s.state == "stuck" and s.job])
    whole = thaw_sweep(folder)
    sweep = Sweep(whole.name, whole.layout, {s.identity: whole.plans[s.identity] for s in wanted})
    launcher, options = launcher_of(folder)
    if launcher == "slurm":
        submit_and_tell(console, sweep, slurm_config(options, [*KINDS, "run"]))
        return 0
    failed.clear(folder)
    workers = options["workers"] or default_workers(list(sweep.plans.values()))
    # a sweep frozen before there were restarts names none
    restarts = {"max_restarts": 0, **options}["max_restarts"]
    outcomes = run_pool(console, sweep, workers, restarts)
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0
