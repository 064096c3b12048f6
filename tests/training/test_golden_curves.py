"""Loss curves that must not change by accident: one per family of objectives, on a tiny model.

They are committed in golden_curves.json with the torch build and the CPU that drew them. On the
same build and CPU every loss must be the same float. Elsewhere the last digits of float32 differ,
and the optimizer, which divides by the gradient's size, carries them on: there the curves must
agree to 1e-4, far below what any change of meaning does to them. A change that means to change a
loss writes new ones: `python tests/training/test_golden_curves.py`.
"""

import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ablate.config.levels import read_level
from ablate.config.training import TrainingConfig
from ablate.models.logps import response_token_logps
from ablate.models.tokenizer import build_tokenizer
from ablate.objectives import make_objective
from ablate.training.groups import Group
from ablate.training.policy import train_policy

GOLDEN = Path(__file__).with_name("golden_curves.json")
#: family -> (level, responses per prompt)
FAMILIES = {
    "RPO, backward KL": ("rpo_bwd", 4),
    "RPO, forward KL": ("rpo_fwd", 4),
    "RPO, squared": ("rpo_sq", 2),
    "RPO, leave-one-out": ("rpo_sqloo", 4),
    "pairs": ("dpo", 4),
    "pairs without reference": ("simpo", 2),
    "squared pairs": ("ipo", 2),
    "single responses, mismatched pairs": ("kto", 2),
    "running mean": ("bco", 2),
    "whole distributions": ("tdpo2", 2),
    "weights from the policy": ("wpo", 2),
    "lists": ("pro", 4),
    "batch sorted": ("aot", 2),
    "policy gradient, groups": ("grpo", 4),
    "policy gradient, leave-one-out": ("rloo", 4),
    "likelihood": ("sft", 2),
}
STEPS = 6


def where() -> dict[str, str]:
    """What decides the last digits."""
    info = Path("/proc/cpuinfo")
    fields = ("model name", "cpu family", "model", "stepping")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    found = {
        line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line
    }
    cpu = " ".join(found.get(field, "") for field in fields) or platform.machine()
    return {
        "torch": torch.__version__,
        "cpu": f"{cpu} {torch.backends.cpu.get_cpu_capability()}",
    }


def groups_of(k, tokenizer, model):
    """Ragged lengths, reference log-probs of the initial weights a little off."""
    draw = np.random.default_rng(0)
    letters = np.arange(5, len(tokenizer))

    def text(longest):
        return [int(letter) for letter in draw.choice(letters, draw.integers(1, longest + 1))]

    groups = [
        Group(
            prompt_id=f"p{number}",
            prompt_ids=[1, *text(5), 3],
            response_ids=[[*text(6), 2] for _ in range(k)],
            rewards=draw.normal(size=k).round(3).tolist(),
            pool_index=list(range(k)),
        )
        for number in range(12)
    ]
    items = [(group.prompt_ids, group.response_ids) for group in groups]
    known = response_token_logps(model, tokenizer, items, 10_000)
    return [
        replace(group, ref_token_logps=rows, ref_logps=[sum(row) for row in rows])
        for group, rows in zip(groups, known, strict=True)
    ]


def model_of(seed, tokenizer):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, max_position_embeddings=64,
        tie_word_embeddings=True, initializer_range=0.2, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def curve(family, folder):
    """Losses of six steps."""
    name, k = FAMILIES[family]
    tokenizer = build_tokenizer(list("abcdefgh"))
    reference = model_of(1, tokenizer)
    values = read_level("training", "default")
    sizes = {"batch_size": 4, "micro_batch_size": None, "gradient_checkpointing": False}
    training = TrainingConfig(**{**values, **sizes, "lr": 1e-3, "epochs": 9, "max_steps": STEPS})
    result = train_policy(
        model_of(0, tokenizer), tokenizer, groups_of(k, tokenizer, reference),
        make_objective(name), training, seed=0, work_dir=folder, reference=reference,
        behaviour="initial",
    )  # fmt: skip
    return result.steps["loss"].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_curve_is_the_committed_one(family, tmp_path):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = curve(family, tmp_path)
    finally:
        torch.set_num_threads(threads)
    expected = golden["curves"][family]
    if where() == golden["where"]:
        assert found == expected
    else:
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_every_curve_moves_and_is_its_own():
    """A curve that stands still, or that two families share, would guard nothing."""
    curves = json.loads(GOLDEN.read_text(encoding="utf-8"))["curves"]
    assert curves.keys() == FAMILIES.keys()
    assert all(len(set(losses)) == STEPS for losses in curves.values())
    assert len({tuple(losses) for losses in curves.values()}) == len(curves)


if __name__ == "__main__":
    import tempfile

    torch.set_num_threads(1)
    written = {}
    for each in FAMILIES:
        with tempfile.TemporaryDirectory() as place:
            written[each] = curve(each, Path(place))
    GOLDEN.write_text(json.dumps({"where": where(), "curves": written}, indent=1) + "\n")
