"""The jobs of a sweep: stages that several runs may share, then the runs that need them."""

from dataclasses import dataclass
from pathlib import Path

from ablate.launch.sweep import Sweep
from ablate.stages.registry import RUN_STAGES
from ablate.store import records
from ablate.store.stages import StageStore

#: the kind of the job that completes a run, beside the kinds of stages
RUN = "run"


@dataclass
class Job:
    """A stage that several runs may share (`stage` is its identity), or a run to complete."""

    key: str
    kind: str
    title: str
    frozen: Path
    stage: str | None
    needs: set[str]

    @property
    def run(self) -> str:
        """Identity of the run that this job completes."""
        return self.key.removeprefix("run-")

    @property
    def log_name(self) -> str:
        """Name of the file that receives all that the job prints."""
        return log_name(self.key)


def log_name(key: str) -> str:
    """Name of a job's log below the sweep's `logs`."""
    return f"{key[:28]}.log"


def run_key(identity: str) -> str:
    """Key of the job that completes a run."""
    return f"run-{identity}"


def jobs_of(sweep: Sweep) -> tuple[list[Job], list[str]]:
    """Jobs that are missing from the store, inputs first, and the runs that are there already."""
    store = StageStore(sweep.layout)
    jobs: dict[str, Job] = {}
    stored: list[str] = []
    for identity, planned in sweep.plans.items():
        forced = planned.run.force is not False
        if not forced and records.latest(sweep.layout, identity) is not None:
            stored.append(identity)
            continue
        needs: set[str] = set()
        frozen = sweep.frozen(identity)
        for stage in planned.stages():
            if stage.name in RUN_STAGES or store.exists(stage.name, stage.identity):
                continue
            needs.add(stage.identity)
            inputs = {needed.identity for needed in stage.inputs.values()}
            jobs.setdefault(
                stage.identity,
                Job(stage.identity, stage.name, stage.title, frozen, stage.identity, inputs),
            )
        key = run_key(identity)
        jobs[key] = Job(key, RUN, "run", frozen, None, needs)
    for job in jobs.values():
        job.needs &= jobs.keys()
    ordered = [job for job in jobs.values() if job.stage] + [
        job for job in jobs.values() if job.stage is None
    ]
    return ordered, stored
