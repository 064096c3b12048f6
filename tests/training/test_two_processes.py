"""Two processes train the policy that one would: DDP on CPU, started as a launcher would."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from ablate.models.loading import load_model, save_model
from ablate.objectives import make_objective
from ablate.training.policy import train_policy

WORKER = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from ablate.config.training import TrainingConfig
from ablate.models.loading import load_model
from ablate.models.tokenizer import load_tokenizer
from ablate.objectives import make_objective
from ablate.training.groups import Group
from ablate.training.policy import train_policy

folder = Path(sys.argv[1])
plan = json.loads((folder / "plan.json").read_text())
groups = [Group(**group) for group in plan["groups"]]
for name in plan["objectives"]:
    result = train_policy(
        load_model(folder / "start", device="cpu"), load_tokenizer(str(folder / "start")), groups,
        make_objective(name), TrainingConfig(**plan["training"]), seed=0, work_dir=folder / name,
        behaviour="initial",
    )
    if torch.distributed.get_rank() == 0:
        result.steps.to_json(folder / f"{name}.json")
"""


def test_two_processes_take_the_path_of_one(
    make_model, make_groups, make_training, tokenizer, tmp_path
):
    groups, names = make_groups(24), ["rpo_bwd", "kto", "bco", "beta_dpo", "reinforce_pp", "rloo"]
    training = make_training(batch_size=8, lr=1e-4, micro_batch_size=2)
    save_model(make_model(), tokenizer, tmp_path / "start")
    plan = {
        "groups": [asdict(group) for group in groups],
        "objectives": names,
        "training": training.model_dump(),
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "worker.py").write_text(WORKER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, "worker.py", str(tmp_path)], cwd=tmp_path,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)
    for name in names:
        alone = make_model()
        result = train_policy(
            alone, tokenizer, groups, make_objective(name), make_training(batch_size=8, lr=1e-4),
            seed=0, work_dir=tmp_path / f"alone-{name}", behaviour="initial",
        )  # fmt: skip
        together = json.loads(Path(tmp_path / f"{name}.json").read_text())
        for column in ("loss", "grad_norm", "log_ratio", "accuracy", "usable", "responses"):
            assert list(together[column].values()) == pytest.approx(
                result.steps[column].tolist(), rel=1e-3, abs=1e-5
            ), (name, column)
        other = load_model(tmp_path / name / "checkpoints" / "step-00003", device="cpu")
        for one, two in zip(alone.parameters(), other.parameters(), strict=True):
            # Adam turns rounding into a step where a gradient is zero but for rounding
            assert float((one - two).detach().abs().mean()) < 1e-6
            assert torch.allclose(one, two, atol=3e-4)
