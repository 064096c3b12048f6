"""FSDP2 through accelerate and TRL: truly sharded, and the curve of one process.

On CPU, accelerate leaves FSDP out and trains whole copies without a word. The workers here lift
that one condition (as the same three lines do for GPUs), and the test asks for DTensor parameters
of half the size, so that it cannot pass by the fallback.
"""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from two_ranks import run_on_two

from ablate.config.model import Lora
from ablate.models.loading import load_model, save_model
from ablate.objectives import make_objective
from ablate.stages.compute import SHARDING
from ablate.training.policy import train_policy

LORA = {"r": 2, "alpha": 4.0, "target_modules": "all-linear"}
#: name of the run: objective, adapters, tied embeddings, settings of training
RUNS = {
    "full": ("rpo_bwd", None, True, {"micro_batch_size": 2}),
    "adapters": ("rpo_bwd", LORA, False, {"micro_batch_size": 2}),
    "coupled": ("bco", None, False, {"micro_batch_size": 2}),
    "uneven": ("rpo_bwd", None, True, {"tokens_per_device": 24}),
}

WORKER = """
import json, os, sys
from pathlib import Path
import torch
from accelerate import state
from accelerate.utils import DistributedType

torch.set_num_threads(1)
plain = state.AcceleratorState.__init__


def on_cpu_too(self, *args, **kwargs):
    plain(self, *args, **kwargs)
    if kwargs.get("fsdp_plugin") and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = kwargs["fsdp_plugin"]
        state.PartialState._shared_state["distributed_type"] = self.distributed_type


state.AcceleratorState.__init__ = on_cpu_too

from ablate.config.model import Lora
from ablate.config.training import TrainingConfig
from ablate.models.loading import load_model
from ablate.models.tokenizer import load_tokenizer
from ablate.objectives import make_objective
from ablate.training import policy
from ablate.training.groups import Group

folder = Path(sys.argv[1])
plan = json.loads((folder / "plan.json").read_text())
trainers, passes = [], []


class Kept(policy.RPOTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        trainers.append(self)

    def _agreed(self, parts):
        agreed = super()._agreed(parts)
        passes.append([len(parts), len(agreed)])
        return agreed


policy.RPOTrainer = Kept
for name, (objective, lora, tied, settings) in plan["runs"].items():
    passes.clear()
    start = folder / ("tied" if tied else "untied")
    shards = {}

    def look(done, total, row):
        for label, value in trainers[-1].model_wrapped.named_parameters():
            local = value.to_local() if hasattr(value, "to_local") else value
            shards[label] = [type(value).__name__, value.numel(), local.numel()]

    result = policy.train_policy(
        load_model(start), load_tokenizer(str(start)), [Group(**g) for g in plan["groups"]],
        make_objective(objective), TrainingConfig(**plan["training"] | settings), seed=0,
        work_dir=folder / name, lora=None if lora is None else Lora(**lora), report=look,
    )
    assert trainers[-1].ref_model is None  # TRL would load one
    rank = torch.distributed.get_rank()
    (folder / f"{name}-{rank}.json").write_text(json.dumps(shards))
    (folder / f"{name}-{rank}-passes.json").write_text(json.dumps(passes))
    if rank == 0:
        result.steps.to_json(folder / f"{name}.json")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture
def start(make_model):
    """Models whose embeddings are tied, and whose are not."""

    def make(tied):
        model = make_model()
        if not tied:
            model.config.tie_word_embeddings = False
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 0.5)
        return model

    return make


@pytest.fixture
def sharded(folder, start, make_groups, make_training, tokenizer):
    """The folder of what two processes trained, once for all tests, and the groups."""
    groups, training = make_groups(13), make_training(batch_size=8, lr=1e-4)
    if (folder / "plan.json").exists():
        return folder, groups
    save_model(start(True), tokenizer, folder / "tied")
    save_model(start(False), tokenizer, folder / "untied")
    plan = {"groups": [asdict(g) for g in groups], "training": training.model_dump(), "runs": RUNS}
    (folder / "plan.json").write_text(json.dumps(plan))
    run_on_two(folder, WORKER, 240, **SHARDING)
    return folder, groups


@pytest.mark.parametrize("name", RUNS)
def test_every_parameter_is_a_shard(sharded, name):
    folder, _ = sharded
    ranks = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0].keys() == ranks[1].keys()
    for label, (kind, whole, _) in ranks[0].items():
        assert kind == "DTensor", label
        local = [rank[label][2] for rank in ranks]
        assert sum(local) == whole, label
        assert max(local) <= whole * 0.6 or whole < 32, label


@pytest.mark.parametrize("name", RUNS)
def test_sharded_training_takes_the_path_of_one(
    sharded, start, make_training, tokenizer, tmp_path, name
):
    folder, groups = sharded
    objective, lora, tied, _ = RUNS[name]
    alone = train_policy(
        start(tied), tokenizer, groups, make_objective(objective),
        make_training(batch_size=8, lr=1e-4), seed=0, work_dir=tmp_path,
        lora=None if lora is None else Lora(**lora),
    )  # fmt: skip
    both = pd.read_json(folder / f"{name}.json")
    for column in ("loss", "grad_norm", "log_ratio", "prompts"):
        assert both[column].tolist() == pytest.approx(
            alone.steps[column].tolist(), rel=1e-3, abs=1e-5
        ), column
    one = alone.checkpoints[-1][1]
    two = folder / name / "checkpoints" / one.name
    stored, gathered = (load_file(path / "model.safetensors") for path in (one, two))
    assert stored.keys() == gathered.keys(), "a tied weight is stored once"
    for label, value in stored.items():
        assert torch.allclose(value, gathered[label], atol=3e-4), label
    load_model(two, device="cpu")
    files = [sorted(p.name for p in Path(path).rglob("*")) for path in (one, two)]
    assert files[0] == files[1]


def test_every_process_makes_as_many_passes_as_the_one_with_the_longest_rows(sharded):
    """Else the gathering of shards would wait for ever."""
    folder, _ = sharded
    first, second = (
        json.loads((folder / f"uneven-{rank}-passes.json").read_text()) for rank in range(2)
    )
    assert any(one[0] != other[0] for one, other in zip(first, second, strict=True))
    for one, other in zip(first, second, strict=True):
        assert one[1] == other[1] == max(one[0], other[0])
