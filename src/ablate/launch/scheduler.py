"""What SLURM says: queued and running jobs, limits of the site; needs no accounting."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from ablate.errors import SchedulerError

#: reasons with which a pending job waits for ever
NEVER = (
    "DependencyNeverSatisfied",
    "PartitionConfig",
    "PartitionTimeLimit",
    "PartitionNodeLimit",
    "BadConstraints",
    "InvalidQOS",
    "InvalidAccount",
    "AccountNotAllowed",
    "QOSNotAllowed",
    "QOSTimeLimit",
    "AssociationTimeLimit",
    "ReservationDeleted",
    # held by SLURM itself, after the job could not be started or was queued again too often
    "JobHoldMaxRequeue",
    "launch_failed_requeued_held",
)
#: what the job itself asks for is more (or less) than a QOS or an association lets one job have;
#: limits per user or group are no such reasons, because other jobs end
_BEYOND_LIMIT = re.compile(r"(QOS|Assoc)Max\w+Per(Job|Node)(Limit)?|QOSMin\w+")
#: reasons with which a job waits until a person releases it
HELD = ("JobHeldAdmin", "JobHeldUser", "job_requeued_in_held_state")
#: states of a job that has not ended
_ALIVE = {
    "PENDING": "queued",
    "CONFIGURING": "queued",
    "REQUEUED": "queued",
    "REQUEUE_HOLD": "queued",
    "REQUEUE_FED": "queued",
    "SPECIAL_EXIT": "queued",
    "SUSPENDED": "queued",
    "RUNNING": "running",
    "COMPLETING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
}
_TIMEOUT = 120


@dataclass(frozen=True)
class Queued:
    """A job that has not ended: `queued` or `running`, and why it waits."""

    job: str
    state: str
    reason: str

    @property
    def hopeless(self) -> bool:
        """True where the job waits for what will never be."""
        never = self.reason in NEVER or _BEYOND_LIMIT.fullmatch(self.reason) is not None
        return self.state == "queued" and never

    @property
    def stuck(self) -> str | None:
        """Why the job does not start by itself, or None where it will."""
        if self.hopeless:
            return f"SLURM says {self.reason}"
        if self.state == "queued" and self.reason in HELD:
            return (
                f"SLURM says {self.reason}: it waits until it is released "
                f"(scontrol release {self.job})"
            )
        return None


def available() -> bool:
    """Whether this machine can submit to SLURM."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def queue() -> dict[str, Queued]:
    """The user's jobs that have not ended, by id (`123` or `123_4`).

    Raises:
        SchedulerError: SLURM does not answer.
    """
    text = _ask("squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r")
    found = {}
    for line in text.splitlines():
        job, state, reason = (part.strip() for part in line.split("|", 2))
        if state in _ALIVE:
            # some reasons are words of a sentence
            found[job] = Queued(job, _ALIVE[state], reason.replace(" ", "_"))
    return found


def max_array_size() -> int:
    """Jobs that one array may hold at this site (its indices stay below MaxArraySize)."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.M)
    return int(found.group(1)) if found else 1001


def cancel(jobs: Iterable[str]) -> None:
    """Cancels jobs, some at a time: a command line has an end."""
    wanted = list(jobs)
    for start in range(0, len(wanted), 200):
        _ask("scancel", "--quiet", *wanted[start : start + 200])


def requeue(job: str) -> None:
    """Puts a running job back into the queue; its processes are ended by SLURM.

    Raises:
        SchedulerError: it was not put there.
    """
    _ask("scontrol", "requeue", job)


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SchedulerError(f"SLURM does not answer ({command[0]}: {error})") from error
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise SchedulerError(f"SLURM refuses `{' '.join(command[:3])}`: {said}")
    return done.stdout
