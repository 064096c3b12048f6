"""A sweep on SLURM from the command line: checks, submission, what to type next; or waiting."""

import time

from rich.console import Console

from ablate.cli.sweep import checked, show_results, tell, tuning_line, with_threads
from ablate.cli.words import several
from ablate.config.expand import Expansion
from ablate.config.launcher import SlurmConfig
from ablate.errors import SchedulerError
from ablate.launch.hopeless import cancel_hopeless
from ablate.launch.launches import launching
from ablate.launch.local import RunOutcome
from ablate.launch.slurm import check_tasks, submit
from ablate.launch.status import counts, sweep_status
from ablate.launch.sweep import Sweep, freeze, layout_of


def sweep_on_slurm(
    expansion: Expansion, arguments: list[str], config: SlurmConfig
) -> list[RunOutcome]:
    """Freezes the runs and submits what the store lacks; how they ended, if we waited for that.

    Raises:
        ConfigError: an illegal combination in any arm, or no SLURM, before anything is submitted.
    """
    console = Console()
    # a job may start anywhere: it must find the store
    root = layout_of(expansion.runs[0]).root.resolve()
    sweep = checked(console, expansion.at(str(root)))
    check_tasks(list(sweep.plans.values()), config)
    # of a run; the tasks of a node divide them
    with_threads(sweep, config.cpus_per_task * config.tasks_per_node)
    # until the jobs that will read them are in the queue
    with launching(sweep.layout, sweep.name):
        tell(console, freeze(sweep, arguments, "slurm", config.model_dump()))
        submit_and_tell(console, sweep, config)
    return wait(console, sweep, config.poll_seconds) if config.wait else []


def submit_and_tell(console: Console, sweep: Sweep, config: SlurmConfig) -> None:
    """Submits, says what was submitted and what to type next."""
    submission = submit(sweep, config)
    told = [several(len(sweep.plans), "run"), f"{submission.stored} in the store"]
    if submission.already_queued:
        told.append(f"{several(submission.already_queued, 'job')} queued before")
    console.print(f"sweep {sweep.name}: {', '.join(told)}", highlight=False)
    if sweep.contests:
        console.print(tuning_line(sweep), highlight=False)
    if submission.arrays:
        shared = ""
        if submission.runs_per_job > 1:
            shared = f" ({several(submission.runs_per_job, 'run')} to a job)"
        console.print(
            f"submitted {several(submission.stages, 'stage')} and "
            f"{several(submission.runs, 'run')}{shared} as "
            f"job{'s' if len(submission.arrays) > 1 else ''} {', '.join(submission.arrays)}",
            highlight=False,
        )
    else:
        console.print("nothing to submit")
    root = f" results_dir={sweep.layout.root}"
    console.print(
        f"\nnext:  ablate status {sweep.name}{root}\n"
        f"       ablate retry  {sweep.name}{root}    what failed or was lost, once more\n"
        f"       ablate cancel {sweep.name}{root}",
        highlight=False,
        soft_wrap=True,
    )


def wait(console: Console, sweep: Sweep, seconds: float) -> list[RunOutcome]:
    """Stays until no run is queued or running, then prints the table.

    A scheduler that does not answer is told once, and asked again.
    """
    said = ""

    def say(line: str) -> str:
        if line != said:
            console.print(f"{time.strftime('%H:%M:%S')}  {line}", highlight=False)
        return line

    while True:
        try:
            for message in cancel_hopeless(sweep.folder):
                console.print(message, highlight=False)
        except SchedulerError as error:
            said = say(f"{error}; asked again every {seconds:g} s")
            time.sleep(seconds)
            continue
        statuses = sweep_status(sweep.folder)
        found = counts(statuses)
        said = say(", ".join(f"{number} {state}" for state, number in found.items()))
        if not any(found.get(state) for state in ("queued", "running", "unknown")):
            break
        time.sleep(seconds)
    good = [status.identity for status in statuses if status.state in ("done", "diverged")]
    outcomes = [
        RunOutcome(s.identity, s.name, s.state if s.identity in good else "failed", s.reason, s.log)
        for s in statuses
    ]
    console.print()
    show_results(console, sweep, outcomes)
    return outcomes
