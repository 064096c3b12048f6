"""`ablate plan`: what a command line would run, what is there already, and what it would cost."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import zip_longest

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ablate.cli.run import check_launcher, expand_words, quiet_libraries
from ablate.cli.usage import LEVELS, STORE, Usage
from ablate.cli.whole import print_paragraph, print_whole
from ablate.cli.words import several
from ablate.config import legality
from ablate.config.expand import Contest, Expansion
from ablate.config.run import RunConfig
from ablate.errors import AblateError
from ablate.launch.estimate import ASSUMED_GPU, Speeds, measured, memory_gib, shape_of
from ablate.launch.local import default_workers
from ablate.launch.sweep import check_by, check_folder, chosen_trials, layout_of
from ablate.launch.work import Work, work_of
from ablate.models.memory import Shape
from ablate.stages.graph import RunPlan, plan
from ablate.stages.preflight import check_data
from ablate.stages.registry import KINDS
from ablate.stages.stage import Stage
from ablate.store import records
from ablate.store.layout import Layout
from ablate.store.stages import StageStore

USAGE = Usage(
    "ablate plan [factor=level …] [setting=value …] [-m] [-cd DIR]",
    "Tells what a command line would run, what is in the store, what it would cost; writes "
    "nothing.",
    words=(
        ("factor=level", "the words of the run or sweep, as they would follow `ablate`"),
        ("-m, --multirun", "several runs, as for a sweep"),
        STORE,
        LEVELS,
    ),
    examples=(
        "ablate plan",
        "ablate plan objective=dpo,simpo num_responses=2,4 seed=0,1 -m",
        "ablate plan +sweep=quick -m",
    ),
)


def main(argv: Sequence[str]) -> int:
    """Prints the plan and writes nothing; 1 if anything would be refused."""
    USAGE.show_if_asked(argv)
    quiet_libraries()
    expansion = expand_words(argv)
    console = Console(soft_wrap=True)
    first, refused = _planned(expansion.runs)
    chosen: list[int | None] = []
    if not refused:
        # what is wrong with the whole is told below
        with suppress(AblateError):
            chosen = chosen_trials(expansion)
    later, also = _planned(_second_phase(expansion.contests, chosen))
    refused |= {reason: names for reason, names in also.items() if reason not in refused}
    refused |= _of_the_whole(argv, expansion, [*first.values(), *later.values()])
    layout = _layout(expansion.runs[0])
    _tell_runs(console, expansion, first, later, layout, bool(chosen) and None not in chosen)
    plans = {**first, **later}
    if plans:
        _tell_stages(console, list(plans.values()), layout)
    for reason, names in refused.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        console.print(f"[red]refused[/]  {escape(', '.join(names[:3]))}{more}", highlight=False)
        for line in reason.splitlines():
            console.print(f"         {escape(line)}", highlight=False)
    console.print("[dim]nothing was written[/]")
    return 1 if refused else 0


def _layout(run: RunConfig) -> Layout:
    return replace(layout_of(run), read_only=True)


def _second_phase(contests: Sequence[Contest], chosen: Sequence[int | None]) -> list[RunConfig]:
    """The runs that report; those of the first trial stand in where none is chosen yet."""
    found = []
    for contest, trial in zip_longest(contests, chosen):
        run = contest.trials[trial or 0].runs[0]
        found += [
            run.model_copy(update={"seed": run.seed.model_copy(update={"value": seed})})
            for seed in contest.seeds
        ]
    return found


def _planned(runs: Sequence[RunConfig]) -> tuple[dict[str, RunPlan], dict[str, list[str]]]:
    """Plans by identity, and what would be refused: reason → arms."""
    plans: dict[str, RunPlan] = {}
    refused: dict[str, list[str]] = {}
    for run in runs:
        try:
            legality.check(run)
            check_data(run)
            planned = plan(run, _layout(run))
        except AblateError as error:
            name = f"{run.objective.name} k={run.num_responses.k} {run.reward.name}"
            arms = refused.setdefault(str(error), [])
            arms += [name] if name not in arms else []
            continue
        plans.setdefault(planned.identity, planned)
    return plans, refused


def _of_the_whole(
    argv: Sequence[str], expansion: Expansion, plans: Sequence[RunPlan]
) -> dict[str, list[str]]:
    """What would be refused of the sweep, whatever its arms are: reason → what it is of."""
    checks: list[tuple[str, Callable[[], None]]] = [
        ("launcher", lambda: check_launcher(argv, plans)),
        ("sweep", lambda: check_folder(expansion.runs)),
        *(("tuning", partial(check_by, by)) for by in {c.by for c in expansion.contests}),
    ]
    refused: dict[str, list[str]] = {}
    for name, check in checks:
        try:
            check()
        except AblateError as error:
            refused[str(error)] = [name]
    return refused


def _tell_runs(
    console: Console,
    expansion: Expansion,
    first: dict[str, RunPlan],
    later: dict[str, RunPlan],
    layout: Layout,
    chosen: bool,
) -> None:
    stored = sum(records.has_record(layout, identity) for identity in first)
    if expansion.contests:
        contest = expansion.contests[0]
        reported = sum(records.has_record(layout, identity) for identity in later)
        told = f", {reported} in the store" if chosen else ""
        print_paragraph(
            console,
            f"{several(len(expansion.contests), 'arm')} with "
            f"{several(len(contest.trials), 'trial')} each: "
            f"{several(len(first), 'distinct run')}, {stored} in the store; the best on "
            f"{contest.by} is then reported with {several(len(later), 'run')} of fresh "
            f"seeds{told}",
        )
        ranges = {c: r for one in expansion.contests for c, r in one.ranges.items()}
        listed = ", ".join(f"{name} {low:g}–{high:g}" for name, (low, high) in ranges.items())
        print_paragraph(console, f"tuned: {listed}", style="dim", indent=7)
        return
    arms, runs = several(len(expansion.runs), "arm"), several(len(first), "distinct run")
    console.print(f"{arms}, {runs}, {stored} in the store", highlight=False)


def _tell_stages(console: Console, plans: list[RunPlan], layout: Layout) -> None:
    stages: dict[str, Stage] = {}
    users: dict[str, int] = {}
    for planned in plans:
        for stage in planned.stages():
            stages.setdefault(stage.identity, stage)
            users[stage.identity] = users.get(stage.identity, 0) + 1
    store = StageStore(layout)
    missing = {i: s for i, s in stages.items() if not store.exists(s.name, i)}
    estimates = _Estimates(layout)
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("stage", no_wrap=True)
    for column in ("needed", "in store", "shared by", "responses", "tokens", "device time"):
        table.add_column(column, justify="right", no_wrap=True)
    whole, seconds = Work(), 0.0
    for kind in KINDS:
        mine = [stage for stage in stages.values() if stage.name == kind]
        if not mine:
            continue
        work, took = estimates.of([s for s in mine if s.identity in missing])
        whole, seconds = whole + work, seconds + took
        most = max(users[stage.identity] for stage in mine)
        there = sum(stage.identity not in missing for stage in mine)
        table.add_row(
            KINDS[kind].title, str(len(mine)), str(there), f"up to {most}" if most > 1 else "",
            _count(work.samples), _count(work.generated + work.trained + work.read),
            _time(took) if work.passes else "",
        )  # fmt: skip
    table.add_row(
        "[bold]all[/]", str(len(stages)), str(len(stages) - len(missing)), "",
        _count(whole.samples), _count(whole.generated + whole.trained + whole.read), _time(seconds),
    )  # fmt: skip
    print_whole(console, table)
    if missing:
        workers = default_workers(plans)
        print_paragraph(
            console,
            f"{seconds / 3600:.2f} device-hours; about {_time(seconds / workers)} with {workers} "
            f"at a time. {estimates.basis()}",
        )
    print_paragraph(console, estimates.largest(plans))


class _Estimates:
    """Costs of stages; shapes and speeds are looked up once per base model and dataset."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        #: whether any stage is much larger than what was measured
        self.beyond = False
        self.known: dict[tuple[str, str], tuple[Shape, Speeds] | None] = {}

    def _of(self, run: RunConfig) -> tuple[Shape, Speeds] | None:
        key = run.base_model.name, run.dataset.name
        if key not in self.known:
            shape = shape_of(run)
            self.known[key] = None if shape is None else (shape, measured(self.layout, run, shape))
        return self.known[key]

    def of(self, stages: Sequence[Stage]) -> tuple[Work, float]:
        """Work and device-seconds of some stages."""
        work, seconds = Work(), 0.0
        for stage in stages:
            found = self._of(stage.run)
            if found is not None:
                shape, speeds = found
                work += work_of(stage, speeds.lengths(stage.run))
                self.beyond = self.beyond or speeds.beyond(stage, shape)
                seconds += speeds.seconds(stage, shape)
        return work, seconds

    def basis(self) -> str:
        """Where the speeds come from."""
        told = []
        for (model, dataset), found in self.known.items():
            if found is None:
                told.append(f"{model}: no estimate, its config.json is not on this machine")
            elif found[1].rates:
                runs = several(found[1].runs, "run")
                told.append(f"{model} on {dataset}: speeds of {runs} in the store")
            else:
                what = (
                    f"{ASSUMED_GPU:.0e} operations per second are"
                    if found[1].device == "cuda"
                    else "what such stages took on another machine is"
                )
                told.append(
                    f"{model} on {dataset}: nothing measured yet, {what} assumed, and responses as "
                    "long as allowed"
                )
        if self.beyond:
            told.append("these were much smaller runs, so the times are upper bounds")
        return "; ".join(told)

    def largest(self, plans: Sequence[RunPlan]) -> str:
        """Per base model what its most expensive run costs by itself, and its largest memory."""
        took: dict[str, float] = {}
        most: dict[str, float] = {}
        #: runs share stages
        known: dict[str, float] = {}
        for planned in plans:
            run, found = planned.run, self._of(planned.run)
            if found is None:
                continue
            shape, speeds = found
            for stage in planned.stages():
                if stage.identity not in known:
                    known[stage.identity] = speeds.seconds(stage, shape)
            seconds = sum(known[stage.identity] for stage in planned.stages())
            held = memory_gib(run, shape, speeds.lengths(run))
            name = run.base_model.name
            took[name] = max(seconds, took.get(name, 0.0))
            most[name] = max(held, most.get(name, 0.0))
        told = "; ".join(
            f"{name} {took[name] / 3600:.2g} device-hours, {gib:.2g} GiB in each training process"
            for name, gib in most.items()
        )
        return f"a run by itself, at most: {told or 'unknown'}"


def _count(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}" if number else ""


def _time(seconds: float) -> str:
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
