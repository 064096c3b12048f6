"""The jobs of a sweep: stages that several runs may share, then the runs that need them."""

from dataclasses import dataclass
from pathlib import Path

from ablate.launch.sweep import Sweep
from ablate.stages.registry import RUN_STAGES
from ablate.stages.stage import Stage
from ablate.store import records
from ablate.store.stages import StageStore

#: the kind of the job that completes a run, beside the kinds of stages
RUN = "run"
#: the kind of the job that chooses among trials
CHOOSE = "choose"
#: kinds of jobs that are no stages
JOB_KINDS = (RUN, CHOOSE)
#: folder of the paths that stand for runs which a choice among trials will name
PROMISED = "promised"


@dataclass
class Job:
    """A stage that several runs may share (`stage` is its identity), or a run to complete."""

    key: str
    kind: str
    title: str
    frozen: Path
    stage: str | None
    needs: set[str]
    #: 0 before any choice among trials, 1 the choice, 2 what was chosen
    phase: int = 0

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
        if not forced and records.has_record(sweep.layout, identity):
            stored.append(identity)
            # who published it may have been killed before it could tidy up
            records.clear_attempts(sweep.layout, identity)
            continue
        needs: set[str] = set()
        frozen = sweep.frozen(identity)
        for stage in planned.stages():
            if stage.name not in RUN_STAGES and not store.exists(stage.name, stage.identity):
                needs.add(stage.identity)
                jobs.setdefault(stage.identity, stage_job(stage, frozen))
        key = run_key(identity)
        jobs[key] = Job(key, RUN, "run", frozen, None, needs)
    return in_order(jobs), stored


def stage_job(stage: Stage, frozen: Path) -> Job:
    """The job of a stage of a frozen run."""
    inputs = {needed.identity for needed in stage.inputs.values()}
    return Job(stage.identity, stage.name, stage.title, frozen, stage.identity, inputs)


def in_order(jobs: dict[str, Job]) -> list[Job]:
    """Stages first, each after its inputs; needs that nobody works on are forgotten."""
    for job in jobs.values():
        job.needs &= jobs.keys()
    return sorted(jobs.values(), key=lambda job: (job.phase, job.stage is None))
