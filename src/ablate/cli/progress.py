"""Progress of a single run: a bar per stage on a terminal, else plain lines on standard error."""

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from ablate.stages.context import Report
from ablate.stages.graph import Stage

#: metrics shown beside a bar, where a stage reports them
SHOWN = ("loss",)
#: in a log, at most one line of progress in so many seconds
SPARSE_SECONDS = 20.0


def open_display(console: Console) -> "StageBars | StageLines":
    """What shows the progress of stages: bars where the console is a terminal, else lines."""
    if console.quiet or console.is_terminal:
        return StageBars(console)
    return StageLines(sys.stderr)


class Seconds(ProgressColumn):
    """Time of a stage: running, or how long it took; `stored` where nothing was computed."""

    def render(self, task: Task) -> Text:
        if task.fields["stored"]:
            return Text("in store", style="dim")
        return Text(f"{task.finished_time or task.elapsed or 0:5.1f} s", style="cyan")


class StageBars:
    """A display for `stages.execute` on a terminal."""

    def __init__(self, console: Console) -> None:
        self.tasks: dict[str, TaskID] = {}
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=28),
            Seconds(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
            refresh_per_second=8,
        )

    def __enter__(self) -> "StageBars":
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def start(self, stage: Stage) -> Report:
        task = self._task(stage)

        def report(done: int, total: int, metrics: dict[str, float]) -> None:
            note = _note(metrics)
            self.progress.update(task, completed=done, total=max(total, 1), note=note)

        return report

    def finish(self, stage: Stage, seconds: float, found: bool) -> None:
        task = self._task(stage)
        total = self.progress.tasks[self.progress.task_ids.index(task)].total or 1
        self.progress.update(task, total=total, completed=total, stored=found)

    def _task(self, stage: Stage) -> TaskID:
        if stage.identity not in self.tasks:
            self.tasks[stage.identity] = self.progress.add_task(
                f"{stage.title:28}", total=None, note="", stored=False
            )
        return self.tasks[stage.identity]


class StageLines:
    """A display for logs and pipes: a line when a stage begins and ends, few in between."""

    def __init__(self, stream: TextIO, every: float = SPARSE_SECONDS) -> None:
        self.stream, self.every = stream, every

    def __enter__(self) -> "StageLines":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def start(self, stage: Stage) -> Report:
        self._say(f"… {stage.title}")
        began = told = time.monotonic()

        def report(done: int, total: int, metrics: dict[str, float]) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told < self.every:
                return
            told = now
            note = _note(metrics)
            after = f", {note}" if note else ""
            self._say(f"  {stage.title}: {done} of {total} after {now - began:.0f} s{after}")

        return report

    def finish(self, stage: Stage, seconds: float, found: bool) -> None:
        self._say(f"✓ {stage.title:32} " + ("in store" if found else f"{seconds:5.1f} s"))

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


def _note(metrics: dict[str, float]) -> str:
    return "  ".join(f"{key} {metrics[key]:.3f}" for key in SHOWN if key in metrics)
