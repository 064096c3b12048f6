"""The W&B mirror, offline: one id per run, kept in the record; metrics as in the store."""

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from wandb.proto import wandb_internal_pb2

from ablate import preemption
from ablate.config.compose import compose
from ablate.stages.complete import complete
from ablate.stages.context import Report
from ablate.stages.execute import Silent
from ablate.stages.graph import RunPlan, Stage, plan
from ablate.store.layout import Layout
from ablate.store.records import Record
from smallrun import SMALL

BLOCK = 32768


def chunks(content: bytes) -> Iterator[bytes]:
    """The records of a W&B log: blocks of (checksum 4, length 2, type 1, data) after 7 bytes."""
    position, joined = 7, b""
    while position + 7 <= len(content):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        joined += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or last part
            yield joined
            joined = b""


def key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def read(log: Path) -> tuple[list[tuple[int, float]], dict[str, str]]:
    """(step, loss) of every logged row, and the summary, of a W&B log."""
    steps, summary = [], {}
    for data in chunks(log.read_bytes()):
        message = wandb_internal_pb2.Record()
        message.ParseFromString(data)
        kind = message.WhichOneof("record_type")
        if kind == "history":
            values = {key(item): item.value_json for item in message.history.item}
            if "loss" in values:
                number = message.history.step.num or int(values["_step"])
                steps.append((number, float(values["loss"])))
        if kind == "summary":
            summary.update({key(item): item.value_json for item in message.summary.update})
    return steps, summary


def mirrored(store: Path, *words: str) -> RunPlan:
    base = [word for word in SMALL if not word.startswith("tracker")]
    run = compose([*base, "tracker=wandb_offline", f"results_dir={store}", *words])
    return plan(run, Layout(store))


def holds(log: Path, record: Record) -> None:
    """The log has every step of the record's training once, and its summary."""
    assert record.data["tracker_id"] in log.name
    steps, summary = read(log)
    stored = pd.read_parquet(record.path / "train.parquet")
    assert [loss for _, loss in steps] == pytest.approx(stored["loss"].tolist())
    assert [step for step, _ in steps] == list(range(1, len(stored) + 1))
    wanted = record.data["metrics"]["reward"]["test"]["mean"]
    assert float(summary["reward/test"]) == pytest.approx(wanted)


def test_an_offline_mirror_holds_the_steps_and_the_summary(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    record = complete(mirrored(tmp_path), layout).record
    (log,) = layout.wandb.rglob("*.wandb")
    holds(log, record)
    # a run that shares the training mirrors it too; another revision is another run of the mirror
    other = complete(mirrored(tmp_path, "evaluation.num_test=6"), layout).record
    again = complete(mirrored(tmp_path, "force=true"), layout).record
    logs = {log.stem.removeprefix("run-"): log for log in layout.wandb.rglob("*.wandb")}
    assert len(logs) == 3
    for one in (record, other, again):
        holds(logs[one.data["tracker_id"]], one)


class Interrupts(Silent):
    """Sends the scheduler's signal in one step of the training of the policy."""

    def __init__(self, step: int) -> None:
        self.step = step

    def start(self, stage: Stage) -> Report:
        def report(done: int, total: int, metrics: dict[str, float]) -> None:
            if stage.name == "policy" and done == self.step:
                os.kill(os.getpid(), signal.SIGUSR2)

        return report


def test_a_run_that_goes_on_after_an_interruption_has_one_mirror_with_every_step(
    tmp_path: Path,
) -> None:
    layout, words = Layout(tmp_path), ["training.epochs=2", "collection=iterative"]
    words += ["collection.rounds=2"]
    before = signal.getsignal(signal.SIGUSR2)
    ids = []
    try:
        for step in (1, 2):
            preemption.listen(signal.SIGUSR2)
            with pytest.raises(preemption.Preempted, match=f"after step {step} of"):
                complete(mirrored(tmp_path, *words), layout, Interrupts(step))
            (log,) = layout.wandb.rglob("*.wandb")
            ids.append(log.stem.removeprefix("run-"))
    finally:
        preemption.listen()
        signal.signal(signal.SIGUSR2, before)
    record = complete(mirrored(tmp_path, *words), layout).record
    assert {*ids, record.data["tracker_id"]} == {ids[0]}, "one id, however often it was interrupted"
    (log,) = layout.wandb.rglob("*.wandb")
    holds(log, record)
    assert not list((layout.wandb / "ids").iterdir())


def test_a_mirror_that_fails_fails_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wandb").write_text("a file where its folder should be")
    record = complete(mirrored(tmp_path), Layout(tmp_path)).record
    assert record.data["status"] == "done"
    assert record.data["tracker_id"] is None
    assert capsys.readouterr().err.count("goes on without its mirror") == 1
