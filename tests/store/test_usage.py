"""What may go from a store: stages that neither a record nor an open sweep needs."""

from pathlib import Path

from sweeps_of_store import frozen

from ablate.cli import cache
from ablate.store import claims, files, records
from ablate.store.layout import Layout
from ablate.store.stages import StageStore
from ablate.store.usage import usage


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
    assert "removes them" in capsys.readouterr().out
    assert left(layout) == {"used", "idle", "busy", "idle.damaged-1", wanted}, "only shown so far"
    assert cache.main(["prune", "--yes", f"results_dir={tmp_path}"]) == 0
    assert left(layout) == {"used", "busy", wanted}
    working.release()
    # once the sweep's run has a record of its own, the record alone says what it needs
    _record(layout, planned.identity)
    assert cache.main(["prune", "--yes", f"results_dir={tmp_path}"]) == 0
    assert left(layout) == {"used"}
    assert files.damage(layout.stages / "sft" / "used") is None
