"""The jobs of a sweep's second phase, known before the trials that decide what they run."""

from collections.abc import Sequence
from pathlib import Path

from ablate.errors import StoreError
from ablate.launch.jobs import CHOOSE, PROMISED, RUN, Job, in_order, run_key, stage_job
from ablate.launch.sweep import Sweep, freeze_run
from ablate.launch.tuning import plan_report
from ablate.stages.registry import RUN_STAGES
from ablate.store.stages import StageStore
from ablate.store.sweeps import Contest, choice_path, read_sweep


def with_second_phase(sweep: Sweep, jobs: Sequence[Job]) -> list[Job]:
    """Adds, for contests whose trials are still to be run, the choice and what follows from it.

    A job of the second phase is given a path that stands for its run; the choice says which run
    that is (`resolve`). Stages that every trial would need anyhow are computed before.
    """
    pending = {job.run: job.key for job in jobs if job.kind == RUN}
    contests = [c for c in sweep.contests if any(run in pending for run in c.runs)]
    if not contests:
        return list(jobs)
    # what was chosen before may be chosen no more
    chosen = {run for c in contests if c.choice for run in c.choice.runs.values()}
    found = {job.key: job for job in jobs if job.kind != RUN or job.run not in chosen}
    choice = Job(f"choose-{sweep.name}", CHOOSE, "choice among trials", sweep.folder, None, set())
    choice.phase = 1
    choice.needs = {pending[run] for c in contests for run in c.runs if run in pending}
    found[choice.key] = choice
    for contest in contests:
        for seed in contest.seeds:
            stages = _stages_ahead(sweep, contest, seed)
            for stage, job in stages.items():
                found.setdefault(stage, job)
            promise = contest.promise(seed)
            path = sweep.folder / PROMISED / promise
            key = run_key(promise)
            found[key] = Job(key, RUN, "run", path, None, {choice.key, *stages}, phase=2)
    return in_order(found)


def _stages_ahead(sweep: Sweep, contest: Contest, seed: int) -> dict[str, Job]:
    """Stages that the reporting run needs whichever trial is chosen, and the store lacks."""
    store = StageStore(sweep.layout)
    # tuned settings take another value in each trial: what two trials share all share
    plans = [plan_report(sweep.folder, contest, t, seed) for t in {0, len(contest.trials) - 1}]
    shared = set.intersection(*({stage.identity for stage in p.stages()} for p in plans))
    # a job finds its stage in a frozen run that has it, whether or not that run is ever chosen
    freeze_run(sweep.folder, plans[0])
    frozen = sweep.frozen(plans[0].identity)
    return {
        stage.identity: stage_job(stage, frozen)
        for stage in plans[0].stages()
        if stage.identity in shared
        and stage.name not in RUN_STAGES
        and not store.exists(stage.name, stage.identity)
    }


def resolve(frozen: Path) -> Path:
    """The frozen run that a path stands for.

    Raises:
        StoreError: the choice was not made, because no trial has finished.
    """
    if frozen.parent.name != PROMISED:
        return frozen
    folder = frozen.parent.parent
    key, _, seed = frozen.name.rpartition("-")
    for contest in read_sweep(folder).contests:
        if contest.key == key and contest.choice is not None:
            return folder / "runs" / f"{contest.choice.runs[int(seed)]}.json"
    raise StoreError(
        f"no trial was chosen for this run, because none has finished ({choice_path(folder, key)} "
        "is not there)"
    )
