"""`ablate cache`: what the stages of a store weigh and who needs them; `prune` removes the rest."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ablate.cli import usage as words_of
from ablate.cli.store_words import split_words
from ablate.cli.words import several
from ablate.errors import AblateError, ConfigError, StoreError
from ablate.launch.jobs import run_key
from ablate.launch.sweep import thaw
from ablate.stages.registry import KINDS
from ablate.store import claims, records
from ablate.store.layout import Layout
from ablate.store.sweeps import closed_sweeps, sweeps
from ablate.store.usage import Usage, prune, usage

USAGE = words_of.Usage(
    "ablate cache [prune [--yes]] [results_dir=DIR]",
    "Lists the store's stages by kind, with their sizes and users; `prune` shows what none needs.",
    words=(
        ("prune", "the stages that no record and no open sweep needs"),
        ("--yes", "with prune: remove them"),
        words_of.STORE,
    ),
    examples=("ablate cache", "ablate cache prune", "ablate cache prune --yes"),
)


def main(argv: Sequence[str]) -> int:
    """Lists stages by kind; `prune` shows what no record and no open sweep needs, or removes it."""
    layout, words, flags = split_words(argv, USAGE)
    if words not in ([], ["prune"]) or flags - {"--yes"} or (flags and not words):
        raise ConfigError(f"cache takes `prune`, or nothing (usage: {USAGE})")
    console = Console()
    if words:
        _check_quiet(layout)
    stages = usage(layout)
    pending = _pending(layout)
    free = [stage for stage in stages if not stage.users and stage.identity not in pending]
    if closed_sweeps(layout):
        # what those need cannot be seen
        free = []
    if not words:
        _list(console, layout, stages, free)
        return 0
    size = sum(stage.bytes for stage in free)
    if not free:
        console.print("nothing to prune: a record or an open sweep needs every stage")
    elif "--yes" not in flags:
        for stage in free:
            console.print(f"{stage.kind:14}{stage.identity[:12]}  {_size(stage.bytes)}")
        console.print(
            f"needed by no record and no open sweep: {several(len(free), 'stage')} "
            f"({_size(size)}); `ablate cache prune --yes` removes what is listed"
        )
    else:
        console.print(f"{_size(prune(layout, free))} came free ({several(len(free), 'stage')})")
    return 0


def _list(console: Console, layout: Layout, stages: list[Usage], free: list[Usage]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("stage", "number", "size", "runs that use one", "needed by none"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for kind in [name for name in KINDS if any(stage.kind == name for stage in stages)]:
        own = [stage for stage in stages if stage.kind == kind]
        unused = [stage for stage in free if stage.kind == kind]
        users = set().union(*(stage.users for stage in own))
        table.add_row(
            KINDS[kind].title,
            str(len(own)),
            _size(sum(stage.bytes for stage in own)),
            str(len(users)),
            _size(sum(stage.bytes for stage in unused)) if unused else "",
        )
    console.print(f"{layout.root.resolve()}: {_size(sum(stage.bytes for stage in stages))}")
    console.print(table)
    if free:
        unneeded = several(len(free), "stage")
        console.print(f"[dim]`ablate cache prune` shows {unneeded} that no record needs[/]")


def _frozen(layout: Layout) -> dict[str, Path]:
    """Every frozen run by identity: also those which the second phase of a sweep may come to."""
    paths = [path for folder in sweeps(layout) for path in (folder / "runs").glob("*.json")]
    return {path.stem: path for path in paths}


def _pending(layout: Layout) -> set[str]:
    """Stages of frozen runs that have no record yet: their sweep may go on."""
    needed: set[str] = set()
    for identity, path in _frozen(layout).items():
        if records.status(layout, identity) is None:
            try:
                planned = thaw(path)
            except AblateError:
                # what it read has changed: it could not be continued anyhow
                continue
            needed |= {stage.identity for stage in planned.stages()}
    return needed


def _check_quiet(layout: Layout) -> None:
    """Refuses while it cannot be seen which stages are needed.

    Raises:
        StoreError: a run is under way whose stages nothing names before its record does, or a
            sweep belongs to another account.
    """
    closed = closed_sweeps(layout)
    if closed:
        listed = ", ".join(sorted({_owner(folder) for folder in closed}))
        raise StoreError(
            f"nothing is pruned beside sweeps of other accounts ({listed}): their folders are "
            "private, and what their runs still need cannot be seen. Root may prune, or whoever "
            "owns all of them"
        )
    known = {run_key(identity) for identity in _frozen(layout)}
    held = [
        path.name.removeprefix(run_key(""))[:12]
        for path in sorted(layout.claims.glob(run_key("*")))
        if path.name not in known and not claims.is_private(path) and claims.is_held(path)
    ]
    if held:
        raise StoreError(
            f"nothing is pruned while single runs are under way ({', '.join(held[:8])}): the "
            "stages that they need stand in no record yet. Try again when they have ended"
        )


def _owner(folder: Path) -> str:
    try:
        return folder.owner()
    except KeyError:
        return f"number {folder.stat().st_uid}"


def _size(number: int) -> str:
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
