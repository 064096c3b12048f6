"""The W&B mirror, offline: one id per run, kept in the record; metrics as in the store."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from wandb.proto import wandb_internal_pb2

from ablate.config.compose import compose
from ablate.stages.complete import complete
from ablate.stages.graph import plan
from ablate.store.layout import Layout
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


def test_an_offline_mirror_holds_the_steps_and_the_summary(tmp_path: Path) -> None:
    words = [word for word in SMALL if not word.startswith("tracker")]
    run = compose([*words, "tracker=wandb_offline", f"results_dir={tmp_path}"])
    layout = Layout(tmp_path)
    record = complete(plan(run, layout), layout).record
    (log,) = layout.wandb.rglob("*.wandb")
    assert record.data["tracker_id"] in log.name
    steps, summary = [], {}
    for data in chunks(log.read_bytes()):
        message = wandb_internal_pb2.Record()
        message.ParseFromString(data)
        kind = message.WhichOneof("record_type")
        if kind == "history":
            values = {key(item): item.value_json for item in message.history.item}
            if "loss" in values:
                steps.append(float(values["loss"]))
        if kind == "summary":
            summary.update({key(item): item.value_json for item in message.summary.update})
    stored = pd.read_parquet(record.path / "train.parquet")
    assert steps == pytest.approx(stored["loss"].tolist())
    wanted = record.data["metrics"]["reward"]["test"]["mean"]
    assert float(summary["reward/test"]) == pytest.approx(wanted)
