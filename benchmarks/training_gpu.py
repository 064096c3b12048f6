"""On a CUDA device: our trainer against TRL's, and against the device's limit.

Two Qwen-shaped models (0.5B and 1.5B weights, random, bfloat16 autocast over float32 weights; no
download). Operations per second at K = 8 with prompt 1024 and response 256, as a share of those of
a large bfloat16 product; and pairs per second of whole optimizer steps against TRL's DPOTrainer
with its best settings (packed without padding under FlashAttention 2 where that is installed, else
SDPA; reference log-probs computed before). Losses must agree before a time counts. Without a CUDA
device it writes empty cells. Prints a table and writes benchmarks/results/training_gpu.json:

    python benchmarks/training_gpu.py
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from measuring import interleaved, machine, make_groups, ratios, spread, told, write
from training_pairs import Clock, Tokenised
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import is_flash_attn_2_available
from trl import DPOConfig

from ablate.models.flops import Work, group_work, training_flops
from ablate.models.memory import Shape
from ablate.models.packing import Packing
from ablate.models.sharing import FLEX_BLOCK, attending, use_flex
from ablate.models.tokenizer import build_tokenizer
from ablate.objectives import make_objective
from ablate.training.budget import Budget
from ablate.training.collate import GroupCollator
from ablate.training.groups import Group
from ablate.training.rpo import RPOTrainer
from ablate.training.source import FixedGroups
from ablate.trl_compat.arguments import Optimisation, common_arguments
from ablate.trl_compat.quiet import quiet, silence

#: width, layers, heads, heads of keys, width of the MLP: Qwen2.5's own
MODELS = {"0.5B": (896, 24, 14, 2, 4864), "1.5B": (1536, 28, 12, 2, 8960)}
VOCABULARY = 151_936
#: K, prompt, response, prompts per step
LIMIT = (8, 1024, 256, 8)
PAIRS = [(1024, 256, 16), (512, 512, 16)]
STEPS, ROUNDS = 4, 3
#: pairs in one of TRL's passes: as many tokens as one of ours takes, or more
MICRO = 8
TARGETS = {"share_of_matrix_rate": 0.5, "times_faster_pairs": 2.0}


def qwen(name: str, attention: str = "sdpa") -> Any:
    """A Qwen2-shaped model with random weights on the device."""
    width, layers, heads, kv_heads, inner = MODELS[name]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        attn_implementation=attention,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device("cuda"):
        return Qwen2ForCausalLM(config)


def bf16_rate(size: int = 8192, repeats: int = 20) -> float:
    """Operations per second of a large bfloat16 product."""
    left = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    right = torch.randn_like(left)
    for _ in range(3):
        left @ right
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        left @ right
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - start)


class CudaClock(Clock):
    """Waits for the device before it looks at the clock."""

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        torch.cuda.synchronize()
        super().on_step_begin(*args, **kwargs)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        torch.cuda.synchronize()
        super().on_step_end(*args, **kwargs)


def _arguments(model: Any, folder: str, batch: int, micro: int | None = None) -> dict[str, Any]:
    optimisation = Optimisation(
        lr=1e-6,
        schedule="constant",
        warmup_steps=0,
        batch_size=batch,
        micro_batch_size=micro,
        weight_decay=0.0,
        max_grad_norm=1.0,
    )
    return common_arguments(
        optimisation, output_dir=folder, seed=0, max_steps=STEPS, model=model, mixed_bf16=True
    )


def _trained(model: Any, make: Callable[[str, Clock], Any]) -> tuple[float, list[float]]:
    clock = CudaClock()
    with tempfile.TemporaryDirectory() as folder, quiet():
        clock.trainer = make(folder, clock)
        clock.trainer.train()
    del model
    return statistics.median(clock.seconds[1:]), clock.losses


def ours(
    name: str, groups: list[Group], batch: int, objective: str, tokens: int
) -> tuple[float, list[float]]:
    """Seconds of a step, and the losses of all."""
    model = qwen(name)
    longest = max(len(g.prompt_ids) + sum(map(len, g.response_ids)) for g in groups)
    flex = use_flex(model, longest)
    packing = Packing(0.0, FLEX_BLOCK) if flex else Packing.of(model.config)
    collator = GroupCollator(groups, list(range(len(groups))), 0, packing=packing)

    def make(folder: str, clock: Clock) -> Any:
        return RPOTrainer(
            model,
            _arguments(model, folder, batch),
            objective=make_objective(objective, beta=0.1),
            source=FixedGroups(collator),
            budget=Budget(tokens, None, found=True),
            num_positions=len(groups),
            tokenizer=build_tokenizer(["a"]),
            callbacks=[clock],
        )

    with attending(model, "flex_attention" if flex else None):
        return _trained(model, make)


def theirs(name: str, groups: list[Group], batch: int) -> tuple[float, list[float]]:
    """The same of TRL's DPOTrainer on pairs."""
    flash = is_flash_attn_2_available()
    model = qwen(name, "flash_attention_2" if flash else "sdpa")
    columns: dict[str, list[Any]] = {
        key: []
        for key in (
            "prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps",
        )
    }  # fmt: skip
    for group in groups:
        assert group.rewards is not None
        assert group.ref_logps is not None
        best = int(group.rewards[1] > group.rewards[0])
        columns["prompt_ids"].append(group.prompt_ids)
        columns["chosen_ids"].append(group.response_ids[best])
        columns["rejected_ids"].append(group.response_ids[1 - best])
        columns["ref_chosen_logps"].append(group.ref_logps[best])
        columns["ref_rejected_logps"].append(group.ref_logps[1 - best])

    def make(folder: str, clock: Clock) -> Any:
        config = DPOConfig(
            **_arguments(model, folder, batch, MICRO),
            precompute_ref_log_probs=True,
            padding_free=flash,
            beta=0.1,
            max_length=None,
        )
        trainer = Tokenised(
            model,
            args=config,
            train_dataset=Dataset.from_dict(columns),
            processing_class=build_tokenizer(["a"]),
            callbacks=[clock],
        )
        silence(trainer)
        return trainer

    return _trained(model, make)


def share_of_limit(name: str, rounds: int, tokens: int) -> dict[str, Any]:
    """Operations per second at K = 8 over those of a product."""
    k, prompt, response, batch = LIMIT
    groups = make_groups(batch * STEPS, k, prompt, response)
    shape = Shape.of(qwen(name).config.to_dict())
    work = sum((group_work(prompt, [response] * k) for _ in range(batch)), start=Work(0, 0, 0))
    flops = training_flops(shape, work)
    rates, limits = [], []
    for _ in range(rounds):
        limits.append(bf16_rate())
        rates.append(flops / ours(name, groups, batch, "rpo_bwd", tokens)[0])
    return {
        "tflops_per_second": spread([rate / 1e12 for rate in rates]),
        "matrix_tflops_per_second": spread([limit / 1e12 for limit in limits]),
        "share": spread([rate / limit for rate, limit in zip(rates, limits, strict=True)]),
    }


def against_trl(name: str, rounds: int, tokens: int) -> list[dict[str, Any]]:
    """Pairs per second of both, losses compared first."""
    rows = []
    for prompt, response, batch in PAIRS:
        groups = make_groups(batch * STEPS, 2, prompt, response)
        left = ours(name, groups, batch, "dpo", tokens)[1]
        right = theirs(name, groups, batch)[1]
        # bfloat16 rounds differently in rows of another length
        worst = max(abs(a - b) for a, b in zip(left, right, strict=True))
        assert worst < 0.05 * max(map(abs, right)), (left, right)
        times = interleaved(
            {
                "ours": lambda groups=groups, batch=batch: ours(name, groups, batch, "dpo", tokens)[
                    0
                ],
                "TRL": lambda groups=groups, batch=batch: theirs(name, groups, batch)[0],
            },
            rounds,
            settle=0,
        )
        rows.append(
            {
                "prompt": prompt,
                "response": response,
                "pairs_per_second": {
                    way: round(batch / statistics.median(values), 2)
                    for way, values in times.items()
                },
                "times_faster": ratios(times["TRL"], times["ours"]),
                "losses": {"ours": left, "TRL": right},
            }
        )
    return rows


def main() -> None:
    """Measures both models, prints the figures, writes the result."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--rounds", type=int, default=ROUNDS)
    flags.add_argument("--tokens", type=int, default=16384, help="tokens per forward pass")
    chosen = flags.parse_args()
    there = torch.cuda.is_available()
    where = machine() if there else None
    figures: dict[str, Any] = {}
    for name in MODELS:
        figures[name] = {
            "limit": share_of_limit(name, chosen.rounds, chosen.tokens) if there else None,
            "pairs": against_trl(name, chosen.rounds, chosen.tokens) if there else None,
        }
        if not there:
            continue
        limit = figures[name]["limit"]
        print(f"{name}: {told(limit['tflops_per_second'], 0)} TFLOP/s, "
              f"{told(limit['share'])} of a product's rate")  # fmt: skip
        for row in figures[name]["pairs"]:
            print(f"  prompt {row['prompt']}, response {row['response']}: "
                  f"{row['pairs_per_second']['ours']} pairs/s, {told(row['times_faster'])} times "
                  "TRL's")  # fmt: skip
    if not there:
        print("no CUDA device here: nothing was measured, and the cells stay empty")
    write(
        "training_gpu",
        "optimizer steps on a CUDA device in bfloat16; null where nothing was measured",
        where or {"gpu": None},
        {"targets": TARGETS, "tokens_per_pass": chosen.tokens, "models": figures},
    )


if __name__ == "__main__":
    main()
