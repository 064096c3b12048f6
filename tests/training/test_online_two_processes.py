"""Two processes draw and train online what one would: each answers its share of the prompts."""

import json
import os

import pytest
import torch
from rollouts import make_rollout
from two_ranks import run_on_two

from ablate.models.loading import load_model, save_model
from ablate.objectives import make_objective
from ablate.training.online import FreshGroups
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
from ablate.training.online import FreshGroups
from ablate.training.policy import train_policy
from ablate.training.watch import Curve
from rollouts import make_rollout

folder = Path(sys.argv[1])
tokenizer = load_tokenizer(str(folder / "start"))
rollout = make_rollout(tokenizer, count=12)
result = train_policy(
    load_model(folder / "start", device="cpu"), tokenizer, FreshGroups(12, 2, rollout),
    make_objective("kto"), TrainingConfig(**json.loads((folder / "training.json").read_text())),
    seed=0, work_dir=folder / "work", reference=load_model(folder / "other", device="cpu"),
    curve=Curve(2, lambda policy: {"parameters": float(policy.num_parameters())}),
)
rank = torch.distributed.get_rank()
(folder / f"drawn-{rank}.json").write_text(json.dumps(rollout.drawn))
(folder / f"points-{rank}.json").write_text(json.dumps(len(result.curve)))
if rank == 0:
    result.steps.to_json(folder / "steps.json")
"""


def test_two_processes_draw_and_learn_as_one(make_model, make_training, tokenizer, tmp_path):
    # a small epsilon would let Adam turn rounding into steps, and these into other draws
    training = make_training(batch_size=4, lr=1e-4, micro_batch_size=1, adam_epsilon=1e-3)
    save_model(make_model(), tokenizer, tmp_path / "start")
    save_model(make_model(3), tokenizer, tmp_path / "other")
    (tmp_path / "training.json").write_text(training.model_dump_json())
    run_on_two(tmp_path, WORKER, 240, PYTHONPATH=os.path.dirname(__file__))

    rollout, model = make_rollout(tokenizer, count=12), make_model()
    alone = train_policy(
        model, tokenizer, FreshGroups(12, 2, rollout), make_objective("kto"),
        training, seed=0, work_dir=tmp_path / "alone", reference=make_model(3),
    )  # fmt: skip
    shares = [json.loads((tmp_path / f"drawn-{rank}.json").read_text()) for rank in range(2)]
    assert [len(share) for share in shares] == [18, 18]
    together = sorted(tuple(map(str, row)) for share in shares for row in share)
    assert together == sorted(tuple(map(str, row)) for row in rollout.drawn)
    # one process measures the curve
    points = [json.loads((tmp_path / f"points-{rank}.json").read_text()) for rank in range(2)]
    assert points == [3, 0]
    steps = json.loads((tmp_path / "steps.json").read_text())
    for column in ("loss", "grad_norm", "log_ratio", "usable", "responses", "reward"):
        assert list(steps[column].values()) == pytest.approx(
            alone.steps[column].tolist(), rel=1e-3, abs=1e-5
        ), column
    other = load_model(tmp_path / "work" / "checkpoints" / "step-00003", device="cpu")
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)
