"""Jobs that can never start: taken out of the queue, and what needed them told why."""

from pathlib import Path

from ablate.launch import failed, scheduler
from ablate.launch.jobs import log_name, run_key
from ablate.launch.slurm import submitted
from ablate.store import records
from ablate.store.layout import Layout
from ablate.store.sweeps import read_sweep


def cancel_hopeless(folder: Path) -> list[str]:
    """Cancels the sweep's jobs that wait for what will never be; one line about each.

    A run of such a job has failed, and so has a stage: the runs that need it, whose jobs may start
    now, find the reason and fail with it.
    """
    jobs = submitted(folder)
    if not jobs or not scheduler.available():
        return []
    reasons = {item.job: item.reason for item in scheduler.queue().values() if item.hopeless}
    stopped = {key: job for key, job in jobs.items() if job in reasons}
    if not stopped:
        return []
    sweep, layout = read_sweep(folder), Layout(folder.parent.parent)
    runs = {run_key(identity): identity for identity in sweep.runs}
    # first the word, then the deed: what waits for these jobs starts at once
    for key, job in stopped.items():
        reason = f"its job {job} could never start: SLURM says {reasons[job]}"
        if key in runs:
            attempt = records.new_attempt(layout, runs[key])
            records.write_failure(attempt, sweep.names[runs[key]], reason, None)
        elif not key.startswith("run-"):
            failed.note(folder, key, reason, log_name(key))
    scheduler.cancel(sorted(set(stopped.values())))
    return [
        f"job {job} can never start and was cancelled: SLURM says {reasons[job]}"
        for job in sorted(set(stopped.values()))
    ]
