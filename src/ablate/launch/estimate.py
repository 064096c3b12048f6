"""Device time and memory of planned runs: from the store's records, or from stated assumptions."""

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ablate.config.run import RunConfig, validate
from ablate.datasets import open_dataset
from ablate.errors import AblateError
from ablate.launch.cost import stage_seconds
from ablate.launch.work import Lengths, lengths_of, optimizer_steps, work_of
from ablate.models.memory import GIB, Shape, estimate
from ablate.stages.graph import plan
from ablate.stages.stage import Stage
from ablate.store import records
from ablate.store.layout import Layout

#: floating-point operations per second of one training process on a GPU where nothing was
#: measured: a third of what an A100 does at best in bfloat16
ASSUMED_GPU = 1e14
#: newest records that speeds are read from
RECORDS_READ = 40
#: kinds of stages that records do not time, and those that do the same work
_LIKE = {"ref_logps": "policy", "answers": "pool", "select": "pool", "reward_model": "policy"}
#: tokens beside the words of a closed vocabulary, and those of the byte tokenizer
SPECIAL, BYTES = 5, 261


@dataclass(frozen=True)
class Speeds:
    """What the store's newest records say of one base model.

    rates: kind of stage → floating-point operations per second of one process, from the largest
    stages that were timed (`largest`, in operations). runs: how many records were read. response:
    mean tokens of a pool's responses, None without any.
    """

    rates: dict[str, float]
    largest: dict[str, float]
    runs: int
    response: float | None
    device: str

    def seconds(self, stage: Stage, shape: Shape) -> float:
        """Estimated device-seconds of a stage (processes × time)."""
        operations = self.operations(stage, shape)
        if self.rates:
            known = self.rates.get(stage.name) or self.rates.get(_LIKE.get(stage.name, ""))
            return operations / (known or max(self.rates.values()))
        if self.device == "cuda":
            return operations / ASSUMED_GPU
        kind = _LIKE.get(stage.name, stage.name)
        return stage_seconds(kind, shape.weights, optimizer_steps(stage), operations)

    def operations(self, stage: Stage, shape: Shape) -> float:
        """Floating-point operations of a stage, at the lengths of the records."""
        return operations(stage, shape, self.response)

    def beyond(self, stage: Stage, shape: Shape) -> bool:
        """Whether a stage is much larger than any that was timed: then it is relatively faster."""
        known = self.largest.get(_LIKE.get(stage.name, stage.name))
        return known is not None and self.operations(stage, shape) > 4 * known

    def lengths(self, run: RunConfig) -> Lengths:
        """Expected tokens of prompts and responses."""
        return lengths_of(run, self.response)


def operations(stage: Stage, shape: Shape, response: float | None) -> float:
    """Floating-point operations of a stage: two per weight and token of a forward pass."""
    return 2 * shape.weights * work_of(stage, lengths_of(stage.run, response)).passes


@dataclass(frozen=True)
class Timings:
    """Stages of one base model and dataset that records timed.

    stages: with their device-seconds (processes × time). runs: how many records were read.
    response: mean tokens of a pool's responses, None without any. device: of the last one read.
    """

    stages: list[tuple[Stage, float]]
    runs: int
    response: float | None
    device: str | None


def timings(
    layout: Layout, base_model: str, dataset: str, limit: int | None = RECORDS_READ
) -> Timings:
    """What the newest records of a store took, at most `limit` of them."""
    tokens = responses = 0.0
    read = 0
    timed: dict[str, tuple[Stage, float]] = {}
    device = None
    for record in _newest(layout, limit):
        config = record.data["config"]
        if (config["base_model"]["name"], config["dataset"]["name"]) != (base_model, dataset):
            continue
        with contextlib.suppress(AblateError):
            stages = {s.identity: s for s in plan(validate(config), layout).stages()}
            read += 1
            device = record.data["machine"]["device"]
            for stored in record.data["stages"]:
                result, identity = stored["result"], stored["id"]
                if identity in timed or identity not in stages or not result.get("seconds"):
                    continue
                timed[identity] = stages[identity], result["seconds"] * result.get("processes", 1)
                if stored["name"] == "pool" and result.get("responses"):
                    tokens += result["tokens"]
                    responses += result["responses"]
    return Timings(list(timed.values()), read, tokens / responses if responses else None, device)


def measured(layout: Layout, run: RunConfig, shape: Shape) -> Speeds:
    """Speeds of stages of the same base model and dataset, weighted by their work."""
    found = timings(layout, run.base_model.name, run.dataset.name)
    by_kind = defaultdict[str, list[tuple[float, float]]](list)
    for stage, took in found.stages:
        by_kind[stage.name].append((operations(stage, shape, found.response), took))
    largest = {kind: max(points)[0] for kind, points in by_kind.items() if max(points)[0] > 0}
    rates = {}
    for kind, most in largest.items():
        # small stages spend their time on starting
        points = [point for point in by_kind[kind] if point[0] >= most / 3]
        rates[kind] = sum(work for work, _ in points) / sum(took for _, took in points)
    device = found.device or ("cuda" if run.runtime.device == "cuda" else "cpu")
    return Speeds(rates, largest, found.runs, found.response, device)


def _newest(layout: Layout, limit: int | None) -> Iterable[records.Record]:
    if not layout.runs.is_dir():
        return
    folders = sorted(layout.runs.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in folders[:limit]:
        with contextlib.suppress(AblateError):
            record = records.latest(layout, folder.name)
            if record is not None:
                yield record


def shape_of(run: RunConfig) -> Shape | None:
    """The shape of a run's base model; None where its config.json is not at hand."""
    model = run.base_model
    if model.architecture is not None:
        words = open_dataset(run.dataset).vocabulary
        return Shape.of(
            {
                "hidden_size": model.architecture.hidden_size,
                "num_hidden_layers": model.architecture.num_layers,
                "num_attention_heads": model.architecture.num_heads,
                "intermediate_size": model.architecture.intermediate_size,
                "vocab_size": BYTES if words is None else len(words) + SPECIAL,
                "tie_word_embeddings": True,
            }
        )
    path = Path(model.path or "").expanduser() / "config.json"
    try:
        return Shape.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        return None


def memory_gib(run: RunConfig, shape: Shape, lengths: Lengths) -> float:
    """GiB that preference training holds in one process."""
    training = run.training
    found = estimate(
        shape,
        rank=None if run.base_model.lora is None else run.base_model.lora.r,
        processes=run.runtime.processes,
        fsdp=run.runtime.fsdp,
        micro_batch_size=training.micro_batch_size or training.batch_size,
        checkpointing=training.gradient_checkpointing,
        responses=run.num_responses.k,
        tokens=round(lengths.both),
    )
    return found.total / GIB
