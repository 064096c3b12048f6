"""What the store says of a job, whatever became of the process that worked on it."""

import time
from dataclasses import dataclass, field

from ablate.store import files, records
from ablate.store.layout import Layout


@dataclass(frozen=True)
class Witness:
    """Called before a job's process starts, heard when it has ended.

    A process may die after it has published, or end in an error that left no word in the store.

    Args:
        run: identity of the frozen run.
        stage: identity of the stage that the job computes; None completes the run.
        forced: whether the run asks for another revision.
    """

    layout: Layout
    run: str
    stage: str | None
    forced: bool
    since: float = field(default_factory=time.time)
    revisions: int = field(init=False)

    def __post_init__(self) -> None:
        before = records.next_revision(self.layout, self.run) if self.forced else 1
        object.__setattr__(self, "revisions", before)

    def published(self) -> bool:
        """Whether what the job was for is in the store, by whomever."""
        if self.stage is not None:
            return is_published(self.layout, self.stage)
        new = records.next_revision(self.layout, self.run) > self.revisions
        return new and records.has_record(self.layout, self.run)

    def told(self) -> bool:
        """Whether a failure of the run was left in the store since."""
        failure = records.last_failure(self.layout, self.run)
        return failure is not None and failure.data["time"] >= self.since


def is_published(layout: Layout, stage: str) -> bool:
    """Whether a stage is published, known by its identity alone."""
    return any(layout.stages.glob(f"*/{stage}/{files.MANIFEST}"))
