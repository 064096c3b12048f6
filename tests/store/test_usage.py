"""What may go from a store: stages that neither a record nor an open sweep needs."""

from pathlib import Path

import pytest
from sweeps_of_store import frozen

from ablate.cli import cache
from ablate.config.compose import hydra_session
from ablate.config.expand import expand
from ablate.errors import StoreError
from ablate.launch.jobs import jobs_of
from ablate.launch.second_phase import with_second_phase
from ablate.launch.sweep import freeze, prepare
from ablate.store import claims, files, records
from ablate.store.layout import Layout
from ablate.store.stages import StageStore
from ablate.store.usage import usage
from smallrun import SMALL


def _publish(layout: Layout, kind: str, identity: str) -> None:
    with StageStore(layout).computing(kind, identity) as out:
        assert out is not None
        (out / "data").write_bytes(b"x" * 1000)


def _record(layout: Layout, identity: str, *stages: str) -> None:
    with files.scratch(layout.scratch, "r") as private:
        entries = [{"id": stage, "name": "sft", "role": "sft", "result": {}} for stage in stages]
        records.publish(layout, identity, private, {"status": "done", "stages": entries})


def left(layout: Layout) -> set[str]:
    return {stage.identity for stage in usage(layout)}


def test_prune_takes_only_what_no_record_and_no_open_sweep_needs(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    layout = Layout(tmp_path)
    planned = frozen(layout)
    wanted = planned.evaluation.inputs["policy"].identity
    for kind, identity in [("sft", "used"), ("sft", "idle"), ("pool", "busy"), ("policy", wanted)]:
        _publish(layout, kind, identity)
    _record(layout, "a" * 32, "used")
    (layout.stages / "sft" / "idle.damaged-1").mkdir()
    working = claims.Claim(layout.claims / "busy")
    assert working.take()
    assert cache.main(["prune", f"results_dir={tmp_path}"]) == 0
    assert "removes what is listed" in " ".join(capsys.readouterr().out.split())
    assert left(layout) == {"used", "idle", "busy", "idle.damaged-1", wanted}, "only shown so far"
    assert cache.main(["prune", "--yes", f"results_dir={tmp_path}"]) == 0
    assert left(layout) == {"used", "busy", wanted}
    working.release()
    # once the sweep's run has a record of its own, the record alone says what it needs
    _record(layout, planned.identity)
    assert cache.main(["prune", "--yes", f"results_dir={tmp_path}"]) == 0
    assert left(layout) == {"used"}
    assert files.damage(layout.stages / "sft" / "used") is None


def test_nothing_is_pruned_while_a_single_run_is_under_way(tmp_path: Path) -> None:
    """No sweep names it, and between two of its stages no claim on a stage is held."""
    layout = Layout(tmp_path)
    _publish(layout, "sft", "made")
    working = claims.Claim(layout.claims / f"run-{'b' * 32}")
    assert working.take()
    for words in (["prune"], ["prune", "--yes"]):
        with pytest.raises(StoreError, match=f"under way \\({'b' * 12}\\)"):
            cache.main([*words, f"results_dir={tmp_path}"])
    assert left(layout) == {"made"}
    working.release()
    assert cache.main(["prune", "--yes", f"results_dir={tmp_path}"]) == 0
    assert left(layout) == set()


def test_a_sweep_under_way_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """What its runs need is known from what was frozen."""
    layout = Layout(tmp_path)
    planned = frozen(layout)
    wanted = planned.evaluation.inputs["policy"].identity
    _publish(layout, "policy", wanted)
    _publish(layout, "sft", "idle")
    working = claims.Claim(layout.claims / f"run-{planned.identity}")
    assert working.take()
    assert cache.main(["prune", "--yes", f"results_dir={tmp_path}"]) == 0
    working.release()
    assert left(layout) == {wanted}


def test_what_a_second_phase_needs_whatever_is_chosen_stays(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    words = [*SMALL, f"results_dir={tmp_path}", "+sweep=objectives", "objective=dpo"]
    words += ["tune.trials=2", "tune.seeds=[7]", "seed=0"]
    with hydra_session([]) as hydra:
        expansion = expand(hydra.config_loader, words)
    sweep = prepare(expansion)
    freeze(sweep, words, "slurm", {})
    jobs = with_second_phase(sweep, jobs_of(sweep)[0])
    # computed before the choice, and of a seed that no trial has
    ahead = [job for job in jobs if job.stage is not None and job.frozen.stem not in sweep.plans]
    assert {job.kind for job in ahead} >= {"sft", "pool"}
    for job in ahead:
        _publish(layout, job.kind, str(job.stage))
    _publish(layout, "sft", "idle")
    assert cache.main(["prune", "--yes", f"results_dir={tmp_path}"]) == 0
    assert left(layout) == {job.stage for job in ahead}
