"""The store: whole or absent, published once, damage noticed, work claimed by one."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablate.errors import StoreError
from ablate.store import claims, files, records
from ablate.store.layout import Layout, check_writable
from ablate.store.memory import remembered
from ablate.store.stages import StageStore


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "store")


def compute(store: StageStore, identity: str, text: str = "content") -> None:
    with store.computing("pool", identity) as out:
        if out is not None:
            (out / "data.txt").write_text(text)


def test_a_stage_is_found_after_it_was_computed(layout: Layout) -> None:
    store = StageStore(layout)
    assert store.find("pool", "abc") is None
    compute(store, "abc")
    found = StageStore(layout).find("pool", "abc")
    assert found is not None
    assert (found / "data.txt").read_text() == "content"


@pytest.mark.parametrize("problem", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_interrupted_stage_leaves_nothing(layout: Layout, problem: type[BaseException]) -> None:
    store = StageStore(layout)

    def interrupted() -> None:
        with store.computing("pool", "abc") as out:
            assert out is not None
            (out / "data.txt").write_text("half")
            raise problem

    with pytest.raises(problem):
        interrupted()
    assert store.find("pool", "abc") is None
    assert list(layout.scratch.iterdir()) == []
    assert list(layout.claims.iterdir()) == []
    compute(store, "abc")
    assert store.find("pool", "abc") is not None


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 999), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_noticed(tmp_path: Path, position: int, bit: int) -> None:
    folder = tmp_path / f"{position}-{bit}"
    folder.mkdir(exist_ok=True)
    content = bytearray(os.urandom(1000))
    (folder / "weights").write_bytes(content)
    files.write_manifest(folder)
    assert files.damage(folder) is None
    content[position] ^= 1 << bit
    (folder / "weights").write_bytes(content)
    assert files.damage(folder) is not None


def test_a_damaged_stage_is_set_aside_and_computed_again(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    compute(StageStore(layout), "abc", "right")
    path = layout.stages / "pool" / "abc"
    (path / "data.txt").write_text("wrong")
    store = StageStore(layout)
    assert store.find("pool", "abc") is None
    assert "damaged" in capsys.readouterr().err
    compute(store, "abc", "right")
    assert (path / "data.txt").read_text() == "right"
    assert len(list((layout.stages / "pool").glob("abc.damaged-*"))) == 1


def test_publishing_twice_keeps_the_first(layout: Layout, tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "f").write_text(text)
    target = layout.stages / "pool" / "x"
    assert files.publish(tmp_path / "first", target)
    assert not files.publish(tmp_path / "second", target)
    assert (target / "f").read_text() == "first"


def _count(root: str, log: str) -> None:
    store = StageStore(Layout(Path(root)))
    with store.computing("pool", "shared") as out:
        if out is not None:
            with open(log, "a") as file:
                file.write("computed\n")
            time.sleep(0.3)
            (out / "data.txt").write_text("x")


def test_many_processes_compute_a_stage_once(layout: Layout, tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count, args=(str(layout.root), str(log))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert log.read_text() == "computed\n"
    assert list(layout.claims.iterdir()) == []


def _die_holding(path: str) -> None:
    assert claims.Claim(Path(path)).take()
    os._exit(9)


def test_the_claim_of_a_dead_process_is_taken_over(layout: Layout) -> None:
    claim = layout.claims / "abc"
    process = multiprocessing.get_context("spawn").Process(target=_die_holding, args=(str(claim),))
    process.start()
    process.join(60)
    assert claim.exists()
    started = time.monotonic()
    compute(StageStore(layout), "abc")
    assert time.monotonic() - started < 30
    assert StageStore(layout).find("pool", "abc") is not None


def test_a_claim_silent_for_long_is_taken_over_whatever_its_host(layout: Layout) -> None:
    claim = layout.claims / "abc"
    claim.mkdir(parents=True)
    (claim / "owner.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": 0}))
    (claim / "heartbeat").touch()
    long_ago = time.time() - claims.SILENCE_SECONDS - 60
    os.utime(claim / "heartbeat", (long_ago, long_ago))
    compute(StageStore(layout), "abc")
    assert StageStore(layout).find("pool", "abc") is not None


def _die_computing(root: str) -> None:
    with StageStore(Layout(Path(root))).computing("pool", "killed") as out:
        assert out is not None
        (out / "half").write_text("half")
        os._exit(9)


def test_what_a_killed_process_left_is_cleared(layout: Layout) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_die_computing, args=(str(layout.root),)
    )
    process.start()
    process.join(60)
    (mine,) = layout.scratch.iterdir()
    elsewhere = layout.scratch / "pool-x@otherhost.1@abc"
    elsewhere.mkdir()
    with files.scratch(layout.scratch, "busy") as busy:
        check_writable(layout, 0)
        assert not mine.exists()
        assert elsewhere.exists()
        assert busy.exists()


def test_a_forced_store_keeps_its_stages_to_itself(layout: Layout, tmp_path: Path) -> None:
    shared = StageStore(layout)
    compute(shared, "abc", "published")
    forced = StageStore(layout, own=tmp_path / "own", fresh=frozenset({"pool"}))
    assert forced.find("pool", "abc") is None
    compute(forced, "abc", "again")
    assert (layout.stages / "pool" / "abc" / "data.txt").read_text() == "published"
    found = forced.find("pool", "abc")
    assert found is not None
    assert (found / "data.txt").read_text() == "again"


def publish_record(
    layout: Layout, identity: str, again: bool = False, **data: object
) -> records.Record:
    with files.scratch(layout.scratch, "r") as private:
        (private / "train.parquet").write_bytes(b"x")
        return records.publish(layout, identity, private, dict(data), again=again)


def test_revisions_are_added_and_never_overwritten(layout: Layout) -> None:
    first = publish_record(layout, "a" * 32, value=1)
    second = publish_record(layout, "a" * 32, again=True, value=2)
    assert (first.revision, second.revision) == (1, 2)
    latest = records.latest(layout, "a" * 32)
    assert latest is not None
    assert latest.data["value"] == 2
    assert json.loads((first.path / "record.json").read_text())["value"] == 1
    assert [record.revision for record in records.records(layout)] == [2]


def test_runs_are_found_by_the_beginning_of_their_identity(layout: Layout) -> None:
    for identity in ("abc1" + "0" * 28, "abd2" + "0" * 28):
        publish_record(layout, identity)
    assert records.find(layout, "abd").identity.startswith("abd2")
    with pytest.raises(StoreError, match="fits 2 runs"):
        records.find(layout, "ab")
    with pytest.raises(StoreError, match="no run"):
        records.find(layout, "ff")


def test_a_failure_is_listed_until_the_run_has_a_record(layout: Layout) -> None:
    attempt = records.new_attempt(layout, "b" * 32)
    records.write_failure(attempt, "a run", "no memory", None)
    assert [failure.data["reason"] for failure in records.failures(layout)] == ["no memory"]
    publish_record(layout, "b" * 32)
    assert list(records.failures(layout)) == []


def test_json_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="nan"):
        files.write_json(path, {"a": float("nan")})
    assert files.read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError, match="results_dir"):
        check_writable(Layout(file / "store"), 0)
    with pytest.raises(StoreError, match="min_free_mb"):
        check_writable(Layout(tmp_path / "store"), 10**9)


def test_what_is_remembered_is_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def value() -> str:
        calls.append(1)
        return "v"

    assert [remembered(tmp_path / "m.json", "k", value) for _ in range(3)] == ["v"] * 3
    assert len(calls) == 1
    (tmp_path / "m.json").write_text("not json")
    assert remembered(tmp_path / "m.json", "k", value) == "v"
    assert len(calls) == 2


def test_a_run_that_two_finished_is_in_the_store_once(layout: Layout) -> None:
    first = publish_record(layout, "a" * 32, value=1)
    second = publish_record(layout, "a" * 32, value=2)
    assert second.path == first.path
    assert second.data["value"] == 1
    assert len(list((layout.runs / ("a" * 32)).iterdir())) == 1


def test_a_claim_has_an_owner_from_its_first_moment(layout: Layout) -> None:
    """Nothing to be seen is a claim without one, whenever its owner dies."""
    path = layout.claims / "abc"
    mine, other = claims.Claim(path), claims.Claim(path)
    assert mine.take()
    assert not other.take()
    assert [entry.name for entry in layout.claims.iterdir()] == ["abc"]
    assert json.loads((path / "owner.json").read_text())["pid"] == os.getpid()
    mine.release()
    assert list(layout.claims.iterdir()) == []
    assert other.take()
    other.release()


def test_the_claim_of_another_survives_a_late_takeover(layout: Layout) -> None:
    """Who judged a claim dead, and finds another's in its place, leaves that alone."""
    path = layout.claims / "abc"
    now = claims.Claim(path)
    assert now.take()
    claims.discard(path, "the token of an owner long gone")
    assert claims.is_held(path)
    assert not claims.Claim(path).take()
    # nor does an owner that was taken over release what is no longer its own
    late = claims.Claim(path)
    late.release()
    assert claims.is_held(path)
    now.release()
    assert not path.exists()


def test_claims_of_the_dead_are_cleared(layout: Layout) -> None:
    path = layout.claims / "abc"
    process = multiprocessing.get_context("spawn").Process(target=_die_holding, args=(str(path),))
    process.start()
    process.join(60)
    alive = claims.Claim(layout.claims / "alive")
    assert alive.take()
    check_writable(layout, 0)
    assert [entry.name for entry in layout.claims.iterdir()] == ["alive"]
    alive.release()
