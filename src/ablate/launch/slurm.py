"""Submission of a sweep to SLURM: stages once, as arrays by depth, then the runs that need them."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ablate.config.launcher import Resources, SlurmConfig
from ablate.errors import ConfigError, StoreError
from ablate.launch import failed, node, scheduler
from ablate.launch.jobs import CHOOSE, RUN, Job, jobs_of
from ablate.launch.local import processes_of
from ablate.launch.second_phase import with_second_phase
from ablate.launch.sweep import Sweep
from ablate.launch.tuning import second_phase, settle
from ablate.stages.graph import RunPlan
from ablate.stages.registry import KINDS
from ablate.store import claims
from ablate.store.files import read_json, write_json
from ablate.store.sweeps import read_sweep

#: an array's share of a sweep: each item is what one job works on, in order
Batch = list[list[Job]]


@dataclass
class Submission:
    """What was handed to the scheduler."""

    #: ids of arrays and jobs, in order of submission
    arrays: list[str] = field(default_factory=list)
    stages: int = 0
    runs: int = 0
    #: runs that were in the store, and pieces that a job of an earlier submission holds already
    stored: int = 0
    already_queued: int = 0
    #: runs that share a job
    runs_per_job: int = 1


def submit(sweep: Sweep, config: SlurmConfig) -> Submission:
    """Submits what the store lacks and no queued job holds; returns at once.

    A job depends `afterany` on the arrays of the stages that it needs: order only. It then reads
    the store, and computes or fails what is missing.

    Raises:
        ConfigError: SLURM is not here. StoreError: SLURM refuses.
    """
    check_available()
    with claims.claimed(sweep.layout.claims / f"sweep-{sweep.name}", done=lambda: False):
        return _submit(sweep, config)


def check_available() -> None:
    """Refuses a machine that cannot submit.

    Raises:
        ConfigError: SLURM is not here.
    """
    if not scheduler.available():
        raise ConfigError(
            "hydra/launcher=slurm needs sbatch and squeue, which are not on this machine's PATH. "
            "Start the sweep on a login node, or use hydra/launcher=local"
        )


def check_tasks(plans: list[RunPlan], config: SlurmConfig) -> None:
    """Refuses runs that want another number of processes than their jobs have tasks.

    Raises:
        ConfigError: names both numbers.
    """
    tasks = config.nodes * config.tasks_per_node
    wanted = processes_of(plans)
    if tasks > 1 and wanted not in (1, tasks):
        raise ConfigError(
            f"runtime.processes={wanted}, but a job has {tasks} tasks (hydra.launcher.nodes times "
            "tasks_per_node), each of which is one process of a run; leave runtime.processes out"
        )


def _submit(sweep: Sweep, config: SlurmConfig) -> Submission:
    # where all trials are in the store the choice needs no job
    settle(sweep.folder, whole=True)
    contests = read_sweep(sweep.folder).contests
    both = replace(sweep, plans=sweep.plans | second_phase(sweep).plans, contests=contests)
    jobs, stored = jobs_of(both)
    jobs = with_second_phase(both, jobs)
    queue = scheduler.queue()
    holding = _held(sweep.folder, queue)
    #: id of the array or job that holds a piece
    holder = {key: job.split("_")[0] for key, job in holding.items()}
    missing = [job for job in jobs if job.key not in holding]
    limit = config.max_array_size or scheduler.max_array_size()
    per_job = _runs_per_job(missing, config, len(queue))
    result = Submission(
        stored=len(stored), already_queued=len(jobs) - len(missing), runs_per_job=per_job
    )
    for kind, batch in batches(missing, per_job, limit):
        needs = {holder[need] for item in batch for job in item for need in job.needs}
        for job in (job for item in batch for job in item if job.stage is not None):
            failed.forget(sweep.folder, job.stage or "")
        ids = _submit_array(sweep, config, kind, batch, sorted(needs))
        for item, job_id in zip(batch, ids, strict=True):
            for job in item:
                holder[job.key] = job_id.split("_")[0]
        _remember(sweep.folder, batch, ids)
        result.arrays.append(ids[0].split("_")[0])
        pieces = sum(len(item) for item in batch)
        if kind == RUN:
            result.runs += pieces
        elif kind != CHOOSE:
            result.stages += pieces
    return result


def batches(jobs: Sequence[Job], runs_per_job: int, limit: int) -> Iterator[tuple[str, Batch]]:
    """Kinds with their arrays of at most `limit` items, such that needs come before.

    Jobs of one array have the same kind and depth: none of them needs another.
    """
    depth: dict[str, int] = {}
    for job in jobs:  # inputs first
        depth[job.key] = 1 + max((depth.get(need, 0) for need in job.needs), default=0)
    groups: dict[tuple[int, float, str], list[Job]] = {}
    for job in jobs:
        # runs go last, together: they differ in depth only by what happens to be in the store
        level = depth[job.key] if job.stage is not None else math.inf
        groups.setdefault((job.phase, level, job.kind), []).append(job)
    for (_, _, kind), members in sorted(groups.items()):
        size = runs_per_job if kind == RUN else 1
        items = [members[start : start + size] for start in range(0, len(members), size)]
        for start in range(0, len(items), limit):
            yield kind, items[start : start + limit]


def _runs_per_job(jobs: Sequence[Job], config: SlurmConfig, queued: int) -> int:
    """As configured, or more where the site would not take so many jobs.

    Args:
        jobs: what is to be submitted.
        queued: jobs of this user that have not ended, of other sweeps too: sites count them all.

    Raises:
        ConfigError: no number of runs per job makes them few enough.
    """
    # runs of different phases share no job
    phases = Counter(job.phase for job in jobs if job.kind == RUN)
    others = len(jobs) - phases.total()
    if config.max_submit is None or not jobs:
        return config.runs_per_job
    room = config.max_submit - queued - others
    if room < len(phases):
        runs = "leave no room for runs" if phases else "are too many"
        raise ConfigError(
            f"{others} stages and your {queued} jobs in the queue {runs} under "
            f"hydra.launcher.max_submit={config.max_submit}. Wait until some have ended, or "
            "split the sweep"
        )
    size = config.runs_per_job
    while sum(math.ceil(runs / size) for runs in phases.values()) > room:
        size += 1
    return size


def _submit_array(
    sweep: Sweep, config: SlurmConfig, kind: str, batch: Batch, needs: Sequence[str]
) -> list[str]:
    """Ids of the jobs of one array, one per item."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    folder = sweep.folder / "slurm"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    executor = SlurmExecutor(folder=folder / "%j", max_num_timeout=config.max_num_timeout)
    executor.update_parameters(
        **_parameters(_resources(config, kind)),
        job_name=f"ablate-{sweep.name[:12]}-{kind}",
        **({"dependency": "afterany:" + ":".join(needs)} if needs else {}),
    )
    root = str(sweep.layout.root.resolve())
    try:
        with executor.batch():
            submitted = [
                executor.submit(node.choose, str(sweep.folder.resolve()))
                if kind == CHOOSE
                else executor.submit(
                    node.run,
                    str(sweep.folder.resolve()),
                    root,
                    [(str(job.frozen.absolute()), job.stage, job.log_name) for job in item],
                    item[0].title if len(item) == 1 else f"{len(item)} runs",
                    config.max_num_timeout,
                )
                for item in batch
            ]
    except FailedJobError as error:
        raise StoreError(f"sbatch refuses the array of {kind}: {error}") from error
    return [str(job.job_id) for job in submitted]


def _resources(config: SlurmConfig, kind: str) -> Resources:
    """What a job of this kind asks for: several tasks only where a trainer can use them."""
    resources = config.resources(kind)
    if kind != RUN and not (kind in KINDS and KINDS[kind].trains):
        return resources.model_copy(update={"nodes": 1, "tasks_per_node": 1})
    if resources.nodes * resources.tasks_per_node > 1:
        # a task that is gone would be waited for until the time is up
        ends = ["--kill-on-bad-exit=1", *resources.srun_args]
        return resources.model_copy(update={"srun_args": ends})
    return resources


def _parameters(resources: Resources) -> dict[str, Any]:
    """What submitit calls our names; what is null is left to the site."""
    names = {"timeout_min": "time", "tasks_per_node": "ntasks_per_node", "mem_gb": "mem"}
    values = {
        names.get(name, name): value
        for name, value in resources.model_dump().items()
        if value is not None and value != [] and value != {}
    }
    if "mem" in values:
        values["mem"] = f"{math.ceil(values['mem'] * 1024)}MB"
    return values


def _remember(folder: Path, batch: Batch, ids: Sequence[str]) -> None:
    """Notes which job holds which pieces; the later note of a piece counts."""
    path = folder / "slurm" / "jobs.json"
    known = read_json(path) if path.exists() else {}
    for item, job_id in zip(batch, ids, strict=True):
        known |= {job.key: job_id for job in item}
    write_json(path, known)


def submitted(folder: Path) -> dict[str, str]:
    """Id of the last job that was given each piece (key of the piece → job id)."""
    path = folder / "slurm" / "jobs.json"
    return dict(read_json(path)) if path.exists() else {}


def held(folder: Path) -> dict[str, str]:
    """The pieces that a queued or running job holds (key → job id)."""
    return _held(folder, scheduler.queue()) if submitted(folder) else {}


def _held(folder: Path, queue: dict[str, scheduler.Queued]) -> dict[str, str]:
    return {key: job for key, job in submitted(folder).items() if job in queue}
