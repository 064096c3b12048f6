"""A local sweep from the command line: checks, plan, pool with a live line, table."""

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ablate.cli.progress import SPARSE_SECONDS
from ablate.cli.words import several
from ablate.config import legality
from ablate.config.expand import Expansion
from ablate.errors import ConfigError, DataError
from ablate.launch.local import RunOutcome, State, default_workers, run_locally
from ablate.launch.pools import at_work
from ablate.launch.sweep import Sweep, check_folder, freeze, prepare
from ablate.launch.tuning import second_phase, settle
from ablate.results import load, load_study
from ablate.stages.complete import run_name
from ablate.stages.cores import threads_each
from ablate.stages.judging import check_judge
from ablate.stages.preflight import check_data
from ablate.stages.tracker import check_tracker
from ablate.store import records
from ablate.store.layout import check_writable


def sweep_locally(
    expansion: Expansion, arguments: list[str], workers: int | None, max_restarts: int
) -> list[RunOutcome]:
    """Runs a sweep on this machine and prints its table.

    Raises:
        ConfigError: an illegal combination in any arm, before anything runs.
    """
    console = Console()
    sweep = checked(console, expansion)
    plans = list(sweep.plans.values())
    workers = workers or default_workers(plans)
    threads = threads_each(workers)
    with_threads(sweep, threads)
    with at_work(sweep.layout, sweep.name):
        options = {"workers": workers, "max_restarts": max_restarts}
        tell(console, freeze(sweep, arguments, "local", options))
        return _run(console, sweep, len(expansion.runs), workers, max_restarts, threads)


def _run(
    console: Console, sweep: Sweep, asked: int, workers: int, max_restarts: int, threads: int
) -> list[RunOutcome]:
    if asked > len(sweep.plans):
        distinct = several(len(sweep.plans), "distinct run")
        console.print(f"{several(asked, 'arm')} are {distinct}")
    if sweep.contests:
        console.print(tuning_line(sweep))
    console.print(
        f"{several(len(sweep.plans), 'run')}, {workers} at a time with "
        f"{several(threads, 'thread')} each; sweep {sweep.name} in {sweep.folder}",
        soft_wrap=True,
    )
    return run_pool(console, sweep, workers, max_restarts)


def tell(console: Console, notes: list[str]) -> None:
    """What of a launch is not taken, where nobody overlooks it."""
    for note in notes:
        console.print(Text.assemble(("note: ", "bold yellow"), note), highlight=False)


def tuning_line(sweep: Sweep) -> str:
    """What the two phases of a tuned sweep are."""
    trials = len(sweep.contests[0].trials)
    later = sum(len(contest.seeds) for contest in sweep.contests)
    return (
        f"{several(len(sweep.contests), 'arm')}, {several(trials, 'trial')} each, chosen by "
        f"{sweep.contests[0].by}; then {several(later, 'run')} to report the chosen with fresh "
        "seeds"
    )


def run_pool(console: Console, sweep: Sweep, workers: int, max_restarts: int) -> list[RunOutcome]:
    """Works on a frozen sweep here, with a live line, and prints its table.

    To be called by one who is `at_work` on it.
    """
    outcomes = _work(console, sweep, workers, max_restarts)
    without = settle(sweep.folder) if sweep.contests else []
    if sweep.contests:
        outcomes += _work(console, second_phase(sweep), workers, max_restarts)
    for contest in without:
        reason = "none of its trials finished, so nothing could be chosen"
        name = run_name(sweep.plans[contest.runs[0]]) if contest.runs else contest.key
        outcomes.append(RunOutcome(contest.key, name, "failed", reason))
    console.print()
    show_results(console, sweep, outcomes)
    return outcomes


def show_results(console: Console, sweep: Sweep, outcomes: list[RunOutcome]) -> None:
    """The table at the end of a sweep; of a tuned one that of `ablate table`."""
    from ablate.cli.table import show_failed, show_table

    good = [outcome.identity for outcome in outcomes if outcome.status != "failed"]
    if not sweep.contests:
        show_table(console, load(sweep.layout.root, good), outcomes)
        return
    from ablate.cli.table_command import show_study

    try:
        show_study(console, load_study(sweep.layout.root, sweep.name))
    except DataError as error:
        console.print(str(error), highlight=False)
    show_failed(console, outcomes)


def _work(console: Console, sweep: Sweep, workers: int, max_restarts: int) -> list[RunOutcome]:
    tell = _sparsely() if not console.is_terminal else None
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        shown: set[str] = set()

        def show(state: State) -> None:
            for outcome in state.finished:
                if outcome.identity not in shown:
                    shown.add(outcome.identity)
                    live.console.print(_line(outcome))
            live.update(_status(state))
            if tell is not None:
                tell(_status(state).plain)

        return run_locally(sweep, workers, show, max_restarts)


def _sparsely(every: float = SPARSE_SECONDS) -> Callable[[str], None]:
    """Prints lines on standard error, one in so many seconds, for logs and pipes."""
    last = time.monotonic()

    def tell(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    return tell


def checked(console: Console, expansion: Expansion) -> Sweep:
    """The sweep of these runs, after every check that can be made before any work.

    Raises:
        ConfigError: an illegal combination in any arm. DataError, StoreError: what is not there.
    """
    runs = expansion.runs
    notes: dict[str, None] = {}
    for run in runs:
        try:
            legality.check(run)
        except ConfigError as error:
            where = f"{run.objective.name}, num_responses {run.num_responses.k}"
            raise ConfigError(f"{error}\n(in the arm {where})") from None
        notes |= dict.fromkeys(check_data(run))
        check_tracker(run)
    for note in notes:
        console.print(f"[dim]data: {note}[/]", highlight=False)
    check_folder(runs)
    sweep = prepare(expansion)
    for planned in sweep.plans.values():
        if planned.run.force is not False or records.latest(sweep.layout, planned.identity) is None:
            check_judge(planned.run.judge, planned.run.runtime.device)
    check_writable(sweep.layout, runs[0].runtime.min_free_mb)
    return sweep


def with_threads(sweep: Sweep, threads: int) -> None:
    """Gives every run that names no threads its share of the machine; no part of its identity."""
    for identity, planned in sweep.plans.items():
        run = planned.run
        runtime = run.runtime.model_copy(update={"threads": run.runtime.threads or threads})
        frozen = run.model_copy(update={"runtime": runtime})
        sweep.plans[identity] = type(planned)(frozen, planned.evaluation)


def _line(outcome: RunOutcome) -> Text:
    style = {"done": "green", "stored": "dim", "diverged": "yellow", "failed": "red"}
    word = {"stored": "in store"}.get(outcome.status, outcome.status)
    return Text.assemble(
        (f"{word:9}", style[outcome.status]), (f"{outcome.identity[:12]}  ", "dim"), outcome.name
    )


def _status(state: State) -> Text:
    failed = sum(outcome.status == "failed" for outcome in state.finished)
    done = len(state.finished) - failed
    elapsed = time.monotonic() - state.started
    left = ""
    if 0 < state.jobs_done < state.jobs:
        seconds = elapsed / state.jobs_done * (state.jobs - state.jobs_done)
        left = (
            f" · about {seconds / 60:.0f} min left" if seconds > 90 else f" · {seconds:.0f} s left"
        )
    running = ", ".join(state.running) or "starting"
    counts = f"{done} of {several(state.runs, 'run')} done, {failed} failed"
    return Text(f"{counts} · {elapsed:.0f} s{left} · now: {running}")
