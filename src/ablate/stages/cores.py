"""How many CPU threads a process may take where a run's settings name none."""

import os


def threads_each(processes: int) -> int:
    """Threads for each of some processes that share this machine's cores.

    No more than OMP_NUM_THREADS of the environment: whoever set that (a batch system, a person
    beside other work) means every process.
    """
    share = max(1, (os.cpu_count() or 1) // processes)
    # "4,2" is for nested regions: the first is the outermost
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(share, int(told)) if told.isdecimal() and int(told) > 0 else share
