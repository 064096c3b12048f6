"""How the runs of a sweep stand: by records first, then failures, claims and the scheduler."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from ablate.errors import SchedulerError
from ablate.launch import failed, scheduler
from ablate.launch.jobs import log_name, run_key
from ablate.launch.pools import PoolAtWork, pools
from ablate.launch.slurm import submitted
from ablate.store import claims, records
from ablate.store.layout import Layout
from ablate.store.sweeps import Contest, FrozenSweep, read_sweep

#: in the order in which they are told
STATES = (
    "done", "diverged", "running", "queued", "failed", "stuck", "lost", "unknown", "missing",
)  # fmt: skip

_WAITS = {"Dependency": "waits for its stages", "Priority": "waits for its turn"}


@dataclass(frozen=True)
class RunStatus:
    """One run of a sweep.

    `queued`: a job of SLURM or a local pool will come to it; `lost`: its job ended without a word;
    `stuck`: its job waits for what will never be, or is held; `unknown`: it has a job, and the
    scheduler could not be asked; `missing`: nobody works on it.
    """

    identity: str
    name: str
    state: str
    reason: str | None = None
    log: Path | None = None
    job: str | None = None


def sweep_status(folder: Path) -> list[RunStatus]:
    """Every run of a sweep, in its order."""
    layout = Layout(folder.parent.parent)
    found = read_sweep(folder)
    local = pools(layout, folder.name)
    # a pool that is at work tries again what failed before it began
    since = max(found.time, local[0].since) if local else found.time
    jobs = submitted(folder)
    queue = _queue() if jobs else {}
    # a job of the second phase was named before anyone knew which run it would be
    promised = {
        identity: contest.promise(seed)
        for contest in found.contests
        if contest.choice is not None
        for seed, identity in contest.choice.runs.items()
    }
    known = [
        _status(
            folder, layout, identity, found.names[identity],
            run_key(promised.get(identity, identity)), jobs, queue, since,
        )
        for identity in found.runs
    ]  # fmt: skip
    known += [_awaited(found, contest, seed, jobs, queue) for contest, seed in found.open()]
    return [_with_pool(status, local[0]) for status in known] if local else known


def _with_pool(status: RunStatus, pool: PoolAtWork) -> RunStatus:
    """What nobody seemed to work on waits for the local pool, which will come to it."""
    if status.state not in ("missing", "lost", "unknown"):
        return status
    waits = f"waits for its turn on {pool.host}, process {pool.pid}"
    reason = status.reason if status.state == "missing" else None
    return replace(status, state="queued", reason=reason or waits, job=None)


def _queue() -> dict[str, scheduler.Queued] | None:
    """What SLURM holds; None where it cannot be asked."""
    try:
        return scheduler.queue() if scheduler.available() else None
    except SchedulerError:
        return None


def _unknown(job: str) -> str:
    return f"job {job} was submitted, and SLURM cannot be asked what became of it"


def _awaited(
    found: FrozenSweep,
    contest: Contest,
    seed: int,
    jobs: dict[str, str],
    queue: dict[str, scheduler.Queued] | None,
) -> RunStatus:
    """A run of the second phase whose settings are not chosen yet."""
    promise = contest.promise(seed)
    name = re.sub(r"seed=\d+$", f"seed={seed}", found.names[contest.runs[0]])
    job = jobs.get(run_key(promise))
    if job is not None and queue is None:
        return RunStatus(promise, name, "unknown", _unknown(job), None, job)
    queued = queue.get(job) if queue and job is not None else None
    reason = f"waits for the choice among {len(contest.trials)} trials"
    if queued is None:
        return RunStatus(promise, name, "missing", reason)
    if queued.stuck is not None:
        return RunStatus(promise, name, "stuck", queued.stuck, None, job)
    return RunStatus(promise, name, queued.state, reason, None, job)


def _status(
    folder: Path,
    layout: Layout,
    identity: str,
    name: str,
    key: str,
    jobs: dict[str, str],
    queue: dict[str, scheduler.Queued] | None,
    since: float,
) -> RunStatus:
    state = records.status(layout, identity)
    if state is not None:
        return RunStatus(identity, name, state)
    log = folder / "logs" / log_name(key)
    job = jobs.get(key)
    queued = queue.get(job) if queue and job is not None else None
    shown = log if log.exists() else None
    if queued is not None:
        if queued.stuck is not None:
            return RunStatus(identity, name, "stuck", queued.stuck, shown, job)
        waits = None
        if queued.state == "queued":
            waits = _WAITS.get(queued.reason, f"SLURM says {queued.reason}")
        return RunStatus(identity, name, queued.state, waits, shown, job)
    failure = records.last_failure(layout, identity)
    if failure is not None and failure.data["time"] >= since:
        reason = failure.data["reason"]
        return RunStatus(identity, name, "failed", reason, shown or _stage_log(folder, reason), job)
    if claims.is_held(layout.claims / run_key(identity)):
        return RunStatus(identity, name, "running", None, shown, job)
    if job is not None and queue is None:
        return RunStatus(identity, name, "unknown", _unknown(job), shown, job)
    if job is not None:
        words = f"job {job} ended without a word (killed, cancelled, or out of memory)"
        return RunStatus(identity, name, "lost", words, shown or _job_log(folder, job), job)
    return RunStatus(identity, name, "missing", None, shown)


def _stage_log(folder: Path, reason: str) -> Path | None:
    """The log of the failed stage that a run's failure speaks of."""
    for path in (folder / "failed").glob("*.json"):
        found = failed.find(folder, path.stem)
        if found is not None and found["reason"] in reason:
            log = folder / "logs" / str(found["log"])
            return log if log.exists() else None
    return None


def _job_log(folder: Path, job: str) -> Path | None:
    """What the job itself printed, where the piece had not begun to write."""
    for path in sorted((folder / "slurm").glob(f"{job.split('_')[0]}*/{job}_*_log.err")):
        return path
    return None


def counts(statuses: list[RunStatus]) -> dict[str, int]:
    """Runs by state, in the order of `STATES`, without those that are 0."""
    found = Counter(status.state for status in statuses)
    return {state: found[state] for state in STATES if found[state]}
