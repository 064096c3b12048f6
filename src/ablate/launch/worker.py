"""What one job does: computes one stage, or completes one run, of a frozen run."""

import os
import signal
import sys
import traceback
from pathlib import Path

from ablate import preemption
from ablate.errors import AblateError
from ablate.launch.sweep import layout_of, thaw
from ablate.stages.complete import complete
from ablate.stages.execute import Execution
from ablate.store.files import write_json
from ablate.store.stages import StageStore


def work(frozen: str, stage: str | None, outcome: str, log: str, gpu: str | None) -> None:
    """Entry of a job's process; leaves its outcome as JSON and exits with 0 or 1.

    A process that is asked to make room (SIGUSR2) exits with `preemption.EXIT_CODE` and no
    outcome: it may be started again.

    Args:
        frozen: path of the frozen run.
        stage: identity of the stage to compute; None completes the run.
        outcome: path of the JSON that tells how it ended.
        log: path of the file that receives everything the job prints.
        gpu: the one GPU that the job may see; None leaves the choice as it is.
    """
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, signal.default_int_handler)
    preemption.listen(signal.SIGUSR2)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    try:
        planned = thaw(Path(frozen))
        layout = layout_of(planned.run)
        if stage is None:
            result = complete(planned, layout)
            write_json(
                Path(outcome),
                {"status": result.record.data["status"], "record": str(result.record.path)},
            )
        else:
            wanted = next(item for item in planned.stages() if item.identity == stage)
            Execution(StageStore(layout)).ensure(wanted)
            write_json(Path(outcome), {"status": "done"})
    except preemption.Preempted as wish:
        print(f"asked to end by {wish}; what was published is kept", file=sys.stderr)
        sys.exit(preemption.EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(130)
    except AblateError as error:
        print(error, file=sys.stderr)
        print("\n".join(getattr(error, "__notes__", [])), file=sys.stderr)
        write_json(Path(outcome), {"status": "failed", "reason": str(error)})
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        write_json(Path(outcome), {"status": "failed", "reason": reason})
        sys.exit(1)


def death(code: int | None) -> str:
    """How a process ended that left no outcome."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
    return f"its process ended with exit code {code}"
