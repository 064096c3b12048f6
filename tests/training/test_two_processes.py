"""Two processes train what one would: DDP on CPU, started as a launcher would."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from two_ranks import run_on_two

from ablate.config.model import SFT
from ablate.models.loading import load_model, save_model
from ablate.models.scoring import load_reward_model
from ablate.objectives import make_objective
from ablate.training.policy import train_policy
from ablate.training.reward_model import Comparison, ScoredResponse, train_reward_model
from ablate.training.sft import train_sft

# number of prompts, objective; 24: every batch of 8 is full; 21: one micro-batch of 2 has nothing
# but fillers; 17: in the last step the second process has nothing but fillers
POLICIES = [
    (24, "rpo_bwd"),
    (21, "kto"),
    (21, "bco"),
    (21, "beta_dpo"),
    (21, "dr_dpo"),
    (21, "tdpo2"),
    (17, "rpo_sqloo"),
    (17, "aot"),
    (21, "reinforce_pp"),
    (24, "rloo"),
    (21, "tpo_triple"),
    (21, "rationale_dpo"),
    (17, "sppo"),
]
SETTINGS = {"lr": 1e-4, "batch_size": 8, "epochs": 1}
STEPS = SFT(steps=4, batch_size=8, lr=1e-4, warmup_steps=2, weight_decay=0.0)
LOSSES = ["bradley_terry", "regression"]

WORKER = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import torch
torch.set_num_threads(1)
from ablate.config.model import SFT
from ablate.config.training import TrainingConfig
from ablate.models.loading import load_model, save_model
from ablate.models.tokenizer import load_tokenizer
from ablate.objectives import make_objective
from ablate.training.groups import Group
from ablate.training.policy import train_policy
from ablate.training.reward_model import Comparison, ScoredResponse, train_reward_model
from ablate.training.sft import train_sft

folder = Path(sys.argv[1])
plan = json.loads((folder / "plan.json").read_text())
start, tokenizer = folder / "start", load_tokenizer(str(folder / "start"))
groups = [Group(**group) for group in plan["groups"]]


def keep(table, name, model=None):
    if torch.distributed.get_rank() == 0:
        table.to_json(folder / f"{name}.json")
        if model is not None:
            save_model(model, tokenizer, folder / name)


for count, name in plan["policies"]:
    result = train_policy(
        load_model(start, device="cpu"), tokenizer, groups[:count], make_objective(name),
        TrainingConfig(**plan["training"]), seed=0, work_dir=folder / name,
        behaviour="initial",
    )
    keep(result.steps, name)
model = load_model(start, device="cpu")
keep(train_sft(model, tokenizer, [tuple(pair) for pair in plan["pairs"]], SFT(**plan["sft"]),
               seed=0, work_dir=folder / "work"), "sft", model)
for loss, kind in (("bradley_terry", Comparison), ("regression", ScoredResponse)):
    examples = [kind(**example) for example in plan[loss]]
    settings = SimpleNamespace(loss=loss, **plan["settings"])
    model, steps = train_reward_model(
        start, tokenizer, examples, settings, seed=0, work_dir=folder / "work", device="cpu"
    )
    keep(steps, loss, model)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("together")


def _examples(groups, loss):
    """As many as there are groups, no multiple of the batch."""
    if loss == "bradley_terry":
        return [Comparison(g.prompt_ids, g.response_ids[0], g.response_ids[1]) for g in groups]
    return [ScoredResponse(g.prompt_ids, g.response_ids[0], g.rewards[0]) for g in groups]


def _pairs(groups):
    return [(group.prompt_ids, group.response_ids[0]) for group in groups]


@pytest.fixture
def together(folder, make_model, make_groups, with_everything, make_training, tokenizer):
    """The folder where two processes left what they trained, once for all tests."""
    groups = with_everything(make_groups(24))
    if (folder / "plan.json").exists():
        return folder, groups
    save_model(make_model(), tokenizer, folder / "start")
    plan = {
        "groups": [asdict(group) for group in groups],
        "policies": POLICIES,
        # one or two prompts in a micro-batch: the processes differ in how many they have
        "training": make_training(
            batch_size=8, lr=1e-4, micro_batch_size=2, tokens_per_device=45
        ).model_dump(),
        "pairs": _pairs(groups),
        "sft": STEPS.model_dump(),
        "settings": SETTINGS,
        **{loss: [asdict(e) for e in _examples(groups[:21], loss)] for loss in LOSSES},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    run_on_two(folder, WORKER, 300)
    return folder, groups


def _same_curve(alone: pd.DataFrame, file: Path, columns: list[str]) -> None:
    both = json.loads(file.read_text())
    for column in columns:
        assert list(both[column].values()) == pytest.approx(
            alone[column].tolist(), rel=1e-3, abs=1e-5
        ), (file.stem, column)


def _same_weights(alone: torch.nn.Module, other: torch.nn.Module) -> None:
    for one, two in zip(alone.parameters(), other.parameters(), strict=True):
        # Adam turns rounding into a step where a gradient is zero but for rounding
        assert float((one - two).detach().abs().mean()) < 1e-6
        assert torch.allclose(one, two, atol=3e-4)


@pytest.mark.parametrize(("count", "name"), POLICIES)
def test_policies(together, make_model, make_training, tokenizer, tmp_path, count, name):
    folder, groups = together
    alone = make_model()
    result = train_policy(
        alone, tokenizer, groups[:count], make_objective(name),
        make_training(batch_size=8, lr=1e-4), seed=0, work_dir=tmp_path, behaviour="initial",
    )  # fmt: skip
    columns = ["loss", "grad_norm", "log_ratio", "usable", "responses", "prompts", "tokens"]
    _same_curve(result.steps, folder / f"{name}.json", columns)
    checkpoint = folder / name / "checkpoints" / "step-00003"
    _same_weights(alone, load_model(checkpoint, device="cpu"))


def test_sft(together, make_model, tokenizer, tmp_path):
    folder, groups = together
    alone = make_model()
    steps = train_sft(alone, tokenizer, _pairs(groups), STEPS, seed=0, work_dir=tmp_path)
    _same_curve(steps, folder / "sft.json", ["loss", "grad_norm", "lr", "tokens"])
    _same_weights(alone, load_model(folder / "sft", device="cpu"))


@pytest.mark.parametrize("loss", LOSSES)
def test_reward_models(together, tokenizer, tmp_path, loss):
    """Of 21 examples the last batch holds 5: one filler among the second process's."""
    folder, groups = together
    model, steps = train_reward_model(
        folder / "start", tokenizer, _examples(groups[:21], loss),
        SimpleNamespace(loss=loss, **SETTINGS), seed=0, work_dir=tmp_path, device="cpu",
    )  # fmt: skip
    own = {"bradley_terry": ["accuracy", "margin", "max_reward", "tokens"],
           "regression": ["correlation"]}  # fmt: skip
    _same_curve(steps, folder / f"{loss}.json", ["loss", "grad_norm", "mean_reward", *own[loss]])
    _same_weights(model, load_reward_model(folder / loss, device="cpu"))
