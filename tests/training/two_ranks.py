"""A worker script on two processes of this machine, as a launcher would start them."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_on_two(folder: Path, worker: str, timeout: float, **environment: str) -> None:
    """Runs `worker` (Python source, given the folder) as ranks 0 and 1 and waits for both."""
    (folder / "worker.py").write_text(worker)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, **environment, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, "worker.py", str(folder)], cwd=folder,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [worker.communicate(timeout=timeout)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)
