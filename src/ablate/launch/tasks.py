"""The tasks of one SLURM job are ranks of its trainings: they agree on what to do, piece by piece.

Task 0 decides, for what it found in the store is all that counts, and leaves its word in a file of
the sweep's folder, which every node sees; the others wait for it.
"""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ablate.store.files import read_json, write_json

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Tasks:
    """This task among those of its job. `size` is 1 where the job has no other."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    nodes: int
    #: where task 0 leaves word; differs between attempts at a job
    folder: Path

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def tell(self, number: int, goes: bool) -> dict[str, str]:
        """Task 0: whether all work on a piece together; the environment of its rank."""
        if self.size == 1:
            return {}
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        # what other nodes call this one; on a machine without a name service it may know none
        host = "127.0.0.1" if self.nodes == 1 else socket.gethostname()
        word = {"goes": goes, "host": host, "port": port}
        write_json(self.folder / f"{number}.json", word)
        return self._environment(host, port)

    def hear(self, number: int, wait: Callable[[], None]) -> dict[str, str] | None:
        """Other tasks: the environment of their rank, None where there is nothing to do.

        Args:
            wait: called while task 0 has not decided; may raise.
        """
        path = self.folder / f"{number}.json"
        while not path.exists():
            wait()
            time.sleep(POLL_SECONDS)
        word = read_json(path)
        return self._environment(word["host"], word["port"]) if word["goes"] else None

    def _environment(self, host: str, port: int) -> dict[str, str]:
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
        }


def own_tasks(folder: Path, job: str | None) -> Tasks:
    """The tasks that SLURM started for this job, by its environment.

    Args:
        folder: the sweep's folder.
        job: this job's id.
    """
    size = int(os.environ.get("SLURM_NTASKS", "1"))
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    attempt = f"{job}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return Tasks(
        rank=int(os.environ.get("SLURM_PROCID", "0")),
        size=size,
        local_rank=int(os.environ.get("SLURM_LOCALID", "0")),
        local_size=size // nodes,
        nodes=nodes,
        folder=folder / "slurm" / "tasks" / attempt,
    )
