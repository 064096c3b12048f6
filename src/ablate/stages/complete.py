"""Completion of a run: its stages, its evaluation and, at last, its record in the store."""

import contextlib
import itertools
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.config.dataset import GivenConfig
from ablate.config.reward import judge_share
from ablate.errors import AblateError, StoreError
from ablate.stages.execute import Display, Execution, Silent
from ablate.stages.graph import RunPlan, Stage
from ablate.stages.keep import reduce_policies
from ablate.stages.registry import KINDS, RUN_STAGES
from ablate.stages.team import launched
from ablate.stages.tracker import Tracker, open_tracker, tell_again
from ablate.store import claims, files, records
from ablate.store.layout import Layout, check_writable
from ablate.store.provenance import keep_diff, provenance
from ablate.store.records import Record
from ablate.store.secrets import scrub
from ablate.store.stages import StageStore


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `found` is True where its record was in the store already."""

    record: Record
    found: bool
    #: with force: whether the weights equal those of the revision before, bit for bit
    same_weights: bool | None = None


def run_name(plan: RunPlan) -> str:
    """A short name for people: the levels of the factors and the seed."""
    run = plan.run
    shaping = "" if run.shaping.kind == "none" else f"{run.shaping.name} "
    collection = "" if run.collection.name == "offline" else f"{run.collection.name} "
    return (
        f"{run.objective.name} k={run.num_responses.k} {run.reward.name} {shaping}"
        f"{run.base_model.name} {run.dataset.name} {collection}seed={run.seed.value}"
    )


def complete(plan: RunPlan, layout: Layout, display: Display | None = None) -> Outcome:
    """Computes what the run lacks and publishes its record.

    A run in the store is returned as it is, unless `force` asks for another revision: then its
    own stages (`force: true`) or all stages (`force: all`) are computed again, apart from the
    published ones, which stay untouched.

    Raises:
        AblateError: the cause of failure; a note of the attempt is left in the store.
    """
    force = plan.run.force
    if force is False:
        stored = records.latest(layout, plan.identity)
        if stored is not None:
            return Outcome(stored, found=True)
    check_writable(layout, plan.run.runtime.min_free_mb)
    before = records.latest(layout, plan.identity)
    if force is not False:
        return _forced(plan, layout, before, display or Silent())
    with claims.claimed(
        layout.claims / f"run-{plan.identity}",
        done=lambda: records.latest(layout, plan.identity) is not None,
    ) as claim:
        if claim is None:
            stored = records.latest(layout, plan.identity)
            assert stored is not None
            return Outcome(stored, found=True)
        record = _attempt(plan, layout, StageStore(layout), display or Silent())
        # the run is recorded: what cannot be freed now costs only room
        with contextlib.suppress(OSError):
            reduce_policies(rounds_of(plan), layout, record, plan.run.keep)
        return Outcome(record, found=False)


def _forced(plan: RunPlan, layout: Layout, before: Record | None, display: Display) -> Outcome:
    fresh = frozenset({"*"}) if plan.run.force == "all" else RUN_STAGES
    with files.scratch(layout.scratch, f"force-{plan.identity[:12]}") as own:
        store = StageStore(layout, own=own, fresh=fresh)
        record = _attempt(plan, layout, store, display)
    same = None
    if before is not None:
        same = before.data["policy"]["weights"] == record.data["policy"]["weights"]
    return Outcome(record, found=False, same_weights=same)


def _attempt(plan: RunPlan, layout: Layout, store: StageStore, display: Display) -> Record:
    """One attempt at a run; leaves failure.json if it fails, nothing if it is interrupted."""
    # the code that runs is the code of now, not of when the run ends
    origin = provenance()
    with contextlib.suppress(OSError):
        keep_diff(layout)
    attempt = records.new_attempt(layout, plan.identity)
    name = run_name(plan)
    # another revision is another run of the mirror; another attempt is not
    key = f"{plan.identity[:12]}-{records.next_revision(layout, plan.identity)}"
    tracker = open_tracker(plan.run, key, name, layout.wandb)
    execution = Execution(store, display, tracker.log)
    started = time.time()
    try:
        there = (store.find(stage.name, stage.identity) for stage in rounds_of(plan))
        tell_again(tracker, (path for path in itertools.takewhile(bool, there) if path))
        evaluation = execution.ensure(plan.evaluation)
        rounds = [execution.ensure(stage) for stage in rounds_of(plan)]
        data = _record_data(plan, execution, evaluation, started)
        data |= {"tracker_id": tracker.id, "provenance": origin}
        with files.scratch(layout.scratch, f"record-{plan.identity[:12]}") as private:
            for table in ("eval.parquet", "pairs.parquet"):
                if (evaluation / table).exists():
                    shutil.copyfile(evaluation / table, private / table)
            join_rounds(rounds, "train.parquet", private)
            join_rounds(rounds, "curve.parquet", private)
            record = records.publish(
                layout, plan.identity, private, data, again=plan.run.force is not False
            )
    except AblateError as error:
        _fail(attempt, name, str(error), error)
        raise
    except OSError as error:
        _fail(attempt, name, str(error), error)
        raise StoreError(f"the results folder could not be written: {error}") from error
    except Exception as error:
        _fail(attempt, name, f"{type(error).__name__}: {error}", error)
        raise
    except BaseException:
        _forget(layout, attempt)
        raise
    else:
        _forget(layout, attempt)
        _finish(tracker, record)
        return record
    finally:
        tracker.leave()


def _finish(tracker: Tracker, record: Record) -> None:
    """Ends the mirror; the run is recorded, so one that cannot be ended costs no more than that."""
    try:
        tracker.finish(_summary(record))
    except Exception as error:
        told = f"run {record.short} is recorded, but its mirror could not be completed: {error}"
        print(scrub(told), file=sys.stderr)


def _forget(layout: Layout, attempt: Path) -> None:
    """Removes an attempt that has nothing to tell, and what killed ones left."""
    shutil.rmtree(attempt, ignore_errors=True)
    records.clear_attempts(layout, attempt.parent.name)


def _fail(attempt: Path, name: str, reason: str, error: BaseException) -> None:
    with contextlib.suppress(OSError):
        records.write_failure(attempt, name, reason, None)
        notes = "\n".join(getattr(error, "__notes__", []))
        if notes:
            (attempt / "traceback.txt").write_text(scrub(notes), encoding="utf-8")


def _record_data(
    plan: RunPlan, execution: Execution, evaluation: Path, started: float
) -> dict[str, Any]:
    import torch

    stages = plan.stages()
    results = {}
    for stage in stages:
        path = execution.store.path(stage.name, stage.identity) / "result.json"
        results[stage.identity] = files.read_json(path) if path.exists() else {}

    def result(name: str) -> dict[str, Any]:
        stage = plan.evaluation if name == "evaluation" else plan.evaluation.inputs[name]
        return dict(results[stage.identity])

    policy, evaluated = result("policy"), result("evaluation")
    rounds = [results[stage.identity] for stage in rounds_of(plan)]
    diverged = policy["diverged"]
    own = [stage.identity for stage in stages if stage.name in RUN_STAGES]
    own_seconds = sum(
        float(results[identity].get("seconds", 0.0)) * int(results[identity].get("processes", 1))
        for identity in own
    )
    device = "cuda" if torch.cuda.is_available() and plan.run.runtime.device != "cpu" else "cpu"
    return {
        "name": run_name(plan),
        "status": "done" if diverged is None else "diverged",
        "divergence": diverged,
        "config": plan.run.model_dump(mode="json"),
        "metrics": evaluated["metrics"],
        "policy": {
            "stage": plan.evaluation.inputs["policy"].identity,
            "step": evaluated["step"],
            "checkpoints": policy["checkpoints"],
            "weights": policy["weights"],
        },
        "reward": {
            **result("scores"),
            # all, part or none of the training reward is the judge itself (reward=gold)
            "judge_share": judge_share(
                plan.run.reward, given=isinstance(plan.run.dataset, GivenConfig)
            ),
        },
        "stages": [
            {
                "role": stage.role if stage.role == stage.name else f"{stage.name}/{stage.role}",
                "name": stage.name,
                "id": stage.identity,
                "result": results[stage.identity],
                "computed_seconds": execution.seconds.get(stage.identity),
            }
            for stage in stages
        ],
        "rounds": [
            {key: done[key] for key in ("groups", "responses", "last", "curve")} for done in rounds
        ],
        "tokens_trained": sum(done["tokens"] for done in rounds),
        "tokens_generated": tokens_generated(stages, results),
        "device_seconds": round(own_seconds, 3),
        "started": started,
        "finished": time.time(),
        "machine": {
            "device": device,
            "device_name": torch.cuda.get_device_name(0) if device == "cuda" else None,
            "threads": torch.get_num_threads(),
            "processes": launched() or plan.run.runtime.processes,
        },
    }


def tokens_generated(stages: list[Stage], results: dict[str, dict[str, Any]]) -> int | None:
    """Tokens that all stages of a run sampled, those that it shares with other runs included.

    None where a stage was computed before stages counted them.
    """
    found = [
        results[stage.identity].get("generated") for stage in stages if KINDS[stage.name].draws
    ]
    if any(count is None for count in found):
        return None
    return sum(count["tokens"] for count in found if count is not None)


def rounds_of(plan: RunPlan) -> list[Stage]:
    """The policy stages of a run's rounds, the first one first."""
    found = [plan.evaluation.inputs["policy"]]
    while "before" in found[0].inputs:
        found.insert(0, found[0].inputs["before"])
    return found


def join_rounds(rounds: list[Path], name: str, folder: Path) -> None:
    """Copies the table of one round, or joins those of several with a column `round` in front."""
    from ablate.store.tables import read_table, write_table

    present = [
        (number, path / name) for number, path in enumerate(rounds, 1) if (path / name).exists()
    ]
    if len(rounds) == 1:
        for _, path in present:
            shutil.copyfile(path, folder / name)
    elif present:
        import pandas as pd

        tables = [read_table(path) for _, path in present]
        for (number, _), table in zip(present, tables, strict=True):
            table.insert(0, "round", number)
        write_table(pd.concat(tables, ignore_index=True), folder / name)


def _summary(record: Record) -> dict[str, float]:
    return {
        f"{metric}/{split}": estimate["mean"]
        for metric, splits in record.data["metrics"].items()
        for split, estimate in splits.items()
    }
