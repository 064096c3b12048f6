"""`ablate status`: how the runs of a sweep stand, with the reason and the log of what failed."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.markup import escape

from ablate.cli.store_words import split_words
from ablate.cli.stored import handed_on_records
from ablate.cli.twins import differences
from ablate.cli.usage import STORE, Usage
from ablate.cli.words import several
from ablate.errors import ConfigError, SchedulerError
from ablate.launch.hopeless import cancel_hopeless
from ablate.launch.status import counts, sweep_status
from ablate.launch.sweep import find_sweep
from ablate.store.records import Record
from ablate.store.sweeps import names, read_sweep

USAGE = Usage(
    "ablate status [SWEEP] [--all] [results_dir=DIR]",
    "Tells how the runs of a sweep stand, with the reason and the log of what failed.",
    words=(
        ("SWEEP", "name or beginning of the id; without it the newest"),
        ("--all", "also the runs that are done or wait for their turn"),
        STORE,
    ),
    examples=("ablate status", "ablate status quick --all"),
)
_STYLE = {
    "done": "green",
    "diverged": "yellow",
    "running": "cyan",
    "queued": "dim",
    "failed": "red",
    "stuck": "red",
    "lost": "red",
    "unknown": "yellow",
    "missing": "red",
}


def main(argv: Sequence[str]) -> int:
    """Prints counts, then the runs that are neither done nor waiting; `--all`: every one.

    Jobs that can never start are cancelled, and told. Where SLURM does not answer, that is said.

    Returns 1 if any run failed, or is missing and nobody works on it.
    """
    layout, words, flags = split_words(argv, USAGE)
    if len(words) > 1 or flags - {"--all"}:
        raise ConfigError(f"status takes one sweep (usage: {USAGE})")
    console = Console(soft_wrap=True)
    folder = find_sweep(layout, words[0] if words else None)
    try:
        for message in cancel_hopeless(folder):
            console.print(message, highlight=False)
    except SchedulerError as error:
        console.print(f"SLURM could not be asked, the store alone tells: {error}", highlight=False)
    statuses = sweep_status(folder)
    copied: dict[str, Record] = {}
    if any(status.state == "missing" for status in statuses):
        copied = {record.identity: record for record in handed_on_records(layout)}
        statuses = [
            replace(s, state=str(copied[s.identity].data["status"])) if s.identity in copied else s
            for s in statuses
        ]
    found = counts(statuses)
    told = ", ".join(f"{number} {state}" for state, number in found.items())
    sweep = read_sweep(folder)
    named = ", ".join(names(sweep.commands))
    title = f"sweep {folder.name} ({named})" if named else f"sweep {folder.name}"
    console.print(f"{title}: {several(len(statuses), 'run')}: {told}", highlight=False)
    configs = {identity: record.data["config"] for identity, record in copied.items()}
    shown = [s for s in statuses if s.state not in ("done", "queued") or "--all" in flags]
    apart = differences(sweep, statuses, {s.name for s in shown}, configs)
    for status in shown:
        job = f"  job {status.job}" if status.job and status.state in ("queued", "running") else ""
        console.print(
            f"[{_STYLE[status.state]}]{status.state:9}[/]{status.identity[:12]}  "
            f"{escape(status.name)}{_more(apart.get(status.identity))}{job}",
            highlight=False,
        )
        if status.reason:
            console.print(f"         {escape(status.reason.splitlines()[0])}", highlight=False)
        if status.log and status.state in ("failed", "lost"):
            console.print(f"         {escape(str(status.log))}", highlight=False)
    bad = sum(found.get(state, 0) for state in ("failed", "stuck", "lost", "missing"))
    if bad:
        console.print(f"[dim]`ablate retry {folder.name}` tries {bad} of them again[/]")
    return 1 if bad else 0


def _more(apart: str | None) -> str:
    return f"  [dim]{escape(apart)}[/]" if apart else ""
