"""A SLURM of small scripts on the PATH: what is asked of it lies in files, as do its answers."""

import os
import time
from pathlib import Path

#: every command leaves its words in `calls`, and fails as long as `down` is there; a `down` with a
#: number in it is an outage of so many calls
HEAD = """#!/bin/bash
cd {folder}
echo "$(basename "$0") $*" >> calls
if [ -e down ]; then
  left=$(cat down 2>/dev/null)
  if [ -n "$left" ]; then
    if [ "$left" -le 1 ]; then rm down; else echo $((left - 1)) > down; fi
  fi
  echo "slurm_load error: Unable to contact slurm controller (connect failure)" >&2
  exit 1
fi
"""
COMMANDS = {
    "squeue": "cat queue\n",
    # a job that is queued again is ended, as SLURM does
    "scontrol": """case "$1" in
  show) echo "MaxArraySize            = 1001" ;;
  requeue) kill -TERM $PPID ;;
esac
""",
    "scancel": "true\n",
    "sbatch": """number=$(($(ls scripts | wc -l) + 100))
cp "${@: -1}" scripts/$number.sh
echo "Submitted batch job $number"
""",
    "srun": "true\n",
}


class FakeSlurm:
    """The commands, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (folder / "scripts").mkdir()
        self.queue()
        for name, text in COMMANDS.items():
            path = self.bin / name
            path.write_text(HEAD.format(folder=folder) + text)
            path.chmod(0o755)

    @property
    def path(self) -> str:
        """The PATH on which its commands come first."""
        return f"{self.bin}:{os.environ['PATH']}"

    def queue(self, *lines: str) -> None:
        """What squeue prints: `123_4|PENDING|Priority`."""
        (self.folder / "queue").write_text("".join(line + "\n" for line in lines))

    def down(self, calls: int | None = None) -> None:
        """The controller answers no more, or not these next calls."""
        (self.folder / "down").write_text("" if calls is None else str(calls))

    def up(self) -> None:
        (self.folder / "down").unlink(missing_ok=True)

    def calls(self, command: str) -> list[str]:
        """What was asked of a command, in order."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[0] == command]

    def until_asked(self, times: int = 5, seconds: float = 120) -> None:
        """Waits until squeue was called so often from now on: who polls has seen how things are."""
        end = time.monotonic() + seconds
        wanted = len(self.calls("squeue")) + times
        while len(self.calls("squeue")) < wanted:
            assert time.monotonic() < end, "nobody asks"
            time.sleep(0.05)

    def scripts(self) -> dict[str, str]:
        """What was submitted, by number of the job."""
        return {path.stem: path.read_text() for path in sorted(self.folder.glob("scripts/*"))}
