"""The end of a sweep's first phase: the best trial of each arm, frozen with fresh seeds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ablate.config.run import validate
from ablate.launch.sweep import Sweep, freeze_run, thaw
from ablate.metrics import describe
from ablate.stages.complete import run_name
from ablate.stages.graph import RunPlan, plan
from ablate.store import records
from ablate.store.files import read_json
from ablate.store.layout import Layout
from ablate.store.sweeps import Choice, Contest, read_sweep, write_choice


def settle(folder: Path, *, whole: bool = False) -> list[Contest]:
    """Chooses in every contest of a sweep; those in which nothing could be chosen come back.

    A trial that lacks a run is left out of the choice. A choice is made anew each time, so that a
    trial which was repeated with success takes part; the same trials give the same choice.

    Args:
        whole: choose only where every trial has all its runs.
    """
    layout = Layout(folder.parent.parent)
    without = []
    for contest in read_sweep(folder).contests:
        values = [_value(layout, trial.runs, contest.by) for trial in contest.trials]
        if None in values and (whole or not any(value is not None for value in values)):
            without.append(contest)
            continue
        best = best_of(values, describe(contest.by).better or 1)
        trial = contest.trials[best]
        plans = {seed: plan_report(folder, contest, best, seed) for seed in contest.seeds}
        for planned in plans.values():
            freeze_run(folder, planned)
        write_choice(
            folder,
            contest.key,
            Choice(
                trial=best,
                settings=trial.settings,
                values=values,
                runs={seed: planned.identity for seed, planned in plans.items()},
                names={planned.identity: run_name(planned) for planned in plans.values()},
            ),
        )
    return without


def second_phase(sweep: Sweep) -> Sweep:
    """What the contests of a sweep have chosen, as a sweep of its own in the same folder."""
    plans = {i: thaw(sweep.frozen(i)) for i in read_sweep(sweep.folder).chosen}
    return replace(sweep, plans=plans, contests=[])


def best_of(values: Sequence[float | None], better: int) -> int:
    """Place of the best value; of equal ones the first. At least one must be there."""
    known = [(better * value, -place) for place, value in enumerate(values) if value is not None]
    return -max(known)[1]


def plan_report(folder: Path, contest: Contest, trial: int, seed: int) -> RunPlan:
    """The run that reports a trial with a seed; it differs from the trial's own in that alone."""
    plain = read_json(folder / "runs" / f"{contest.trials[trial].runs[0]}.json")
    plain["seed"]["value"] = seed
    run = validate(plain)
    return plan(run, Layout(folder.parent.parent))


def _value(layout: Layout, runs: Sequence[str], by: str) -> float | None:
    """Mean of a metric over the runs of a trial; None if one of them has no record."""
    metric, split = by.split("/")
    found = []
    for identity in runs:
        record = records.latest(layout, identity)
        estimate = None if record is None else record.data["metrics"].get(metric, {}).get(split)
        if estimate is None or estimate["mean"] is None:
            return None
        found.append(float(estimate["mean"]))
    return float(np.mean(found))
