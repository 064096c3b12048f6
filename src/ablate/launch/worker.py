"""What one job does: computes one stage, or completes one run, of a frozen run."""

import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from ablate import preemption
from ablate.errors import AblateError
from ablate.launch.sweep import layout_of, thaw
from ablate.stages.complete import complete
from ablate.stages.execute import Execution
from ablate.stages.forks import INTERRUPTED, die_with_parent
from ablate.stages.team import together
from ablate.store.files import disk_trouble, write_json
from ablate.store.secrets import scrub
from ablate.store.stages import StageStore


def carry_out(frozen: Path, stage: str | None) -> dict[str, Any] | None:
    """Computes one stage of a frozen run, or completes the run; how it ended, as plain data.

    A launcher that starts one task per rank (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT set)
    calls this in every rank: rank 0 leads, the others assist where a stage trains and get None.

    Args:
        frozen: path of the frozen run.
        stage: identity of the stage to compute; None completes the run.
    """
    planned = thaw(frozen)
    layout = layout_of(planned.run)

    def lead() -> dict[str, Any]:
        if stage is None:
            record = complete(planned, layout).record
            return {"status": record.data["status"], "record": str(record.path)}
        wanted = next(item for item in planned.stages() if item.identity == stage)
        Execution(StageStore(layout)).ensure(wanted)
        return {"status": "done"}

    return together(planned, lead)


def work(
    frozen: str, stage: str | None, outcome: str, log: str, environment: dict[str, str]
) -> None:
    """Entry of a job's process; leaves its outcome as JSON and exits with 0 or 1.

    A process that is asked to make room (SIGUSR2, SIGTERM) exits with `preemption.EXIT_CODE` and no
    outcome: it may be started again.

    Args:
        frozen: path of the frozen run.
        stage: identity of the stage to compute; None completes the run.
        outcome: path of the JSON that tells how it ended.
        log: path of the file that receives everything the job prints.
        environment: set in this process: the GPUs that the job may see, one per training process,
            or its place among the ranks that a launcher started.
    """
    os.environ.update(environment)
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # SLURM sends SIGTERM to every process of a job that is preempted or cancelled
    preemption.listen(signal.SIGUSR2, signal.SIGTERM)
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        write_json(Path(outcome), carry_out(Path(frozen), stage) or {})
    except preemption.Preempted as wish:
        print(f"asked to end by {wish}; what was published is kept", file=sys.stderr)
        sys.exit(preemption.EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        reason = str(error)
        if not isinstance(error, AblateError):
            reason = f"{type(error).__name__}: {error}"
            if disk_trouble(error) is not None:
                reason = f"the results folder could not be written: {error}"
        # first of all: a log on a full disk takes no word
        write_json(Path(outcome), {"status": "failed", "reason": reason})
        with contextlib.suppress(OSError):
            if isinstance(error, AblateError) or disk_trouble(error) is not None:
                told = "\n".join([reason, *getattr(error, "__notes__", [])])
            else:
                told = traceback.format_exc()
            print(scrub(told), file=sys.stderr)
            sys.stderr.flush()
        sys.exit(1)
