"""Progress of a single run on the screen: one bar per stage."""

from types import TracebackType

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


class Seconds(ProgressColumn):
    """Time of a stage: running, or how long it took; `stored` where nothing was computed."""

    def render(self, task: Task) -> Text:
        if task.fields["stored"]:
            return Text("in store", style="dim")
        return Text(f"{task.finished_time or task.elapsed or 0:5.1f} s", style="cyan")


class StageBars:
    """A display for `stages.execute`: prints a line per stage when there is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
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
            note = "  ".join(f"{key} {metrics[key]:.3f}" for key in SHOWN if key in metrics)
            self.progress.update(task, completed=done, total=max(total, 1), note=note)

        return report

    def finish(self, stage: Stage, seconds: float, found: bool) -> None:
        task = self._task(stage)
        total = self.progress.tasks[self.progress.task_ids.index(task)].total or 1
        self.progress.update(task, total=total, completed=total, stored=found)
        if not self.console.is_terminal:
            took = "in store" if found else f"{seconds:5.1f} s"
            self.console.print(f"✓ {stage.title:32} {took}")

    def _task(self, stage: Stage) -> TaskID:
        if stage.identity not in self.tasks:
            self.tasks[stage.identity] = self.progress.add_task(
                f"{stage.title:28}", total=None, note="", stored=False
            )
        return self.tasks[stage.identity]
