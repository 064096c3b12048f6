"""How long does each objective take, forward and backward, beside the model? One CPU core.

The claim: under 5 ms for 256 prompts of 16 responses, except objectives that read tokens (or what
the vocabulary says of them), whose tensors are longer by the number of tokens. Prints a table and
writes benchmarks/results/objectives_speed.json:

    python benchmarks/objectives_speed.py
"""

import argparse
import json
import platform
import statistics
import time
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from measuring import cpu_model
from torch import Tensor

from ablate.config.levels import level_names
from ablate.groups import PromptGroup
from ablate.objectives import Objective, make_objective

B, K, T = 256, 16, 64
TARGET_MS = 5.0
WARM_UP, REPEATS = 5, 50
RESULT = Path(__file__).resolve().parent / "results" / "objectives_speed.json"
#: what depends on the policy, so that a gradient flows into it
LEAVES = (
    "policy_logps", "token_logps", "log_sum_sq", "token_kl", "gold_logps", "rationale_logps",
)  # fmt: skip


def ragged_group(extra: int) -> PromptGroup:
    """B prompts with 2 to K responses, with every field that any objective reads, in float32."""
    draw = torch.Generator().manual_seed(0)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=draw)

    lengths = torch.randint(1, T + 1, (B, K), generator=draw)
    shown = torch.arange(T) < lengths[..., None]
    token_ref = torch.where(shown, uniform(B, K, T, low=-3.0), 0.0)
    token_policy = torch.where(shown, token_ref + uniform(B, K, T, low=-0.3, high=0.3), 0.0)
    better = uniform(B, K, K)
    return PromptGroup(
        policy_logps=token_policy.sum(2),
        ref_logps=token_ref.sum(2),
        rewards=uniform(B, K, low=-2.0, high=2.0).round(decimals=1),
        lengths=lengths,
        mask=torch.arange(K) < torch.randint(2, K + 1, (B, 1), generator=draw),
        pairing_key=torch.rand(B, K, generator=draw).argsort(1),
        kl_logps=uniform(B, K, low=-90.0, high=-60.0),
        kl_ref_logps=uniform(B, K, low=-90.0, high=-60.0),
        extra_rewards=uniform(B, K, extra),
        token_logps=token_policy,
        token_ref_logps=token_ref,
        old_token_logps=torch.where(shown, token_policy - uniform(B, K, T, high=0.1), 0.0),
        prev_logps=token_ref.sum(2) + uniform(B, K),
        win_probs=(better + 1 - better.transpose(1, 2)) / 2,
        log_sum_sq=uniform(B, K, low=-40.0, high=-1.0),
        token_kl=shown * uniform(B, K, T, high=0.1),
        token_weights=shown * uniform(B, K, T),
        token_kl_weights=shown * uniform(B, K, T),
        gold_logps=uniform(B, low=-60.0, high=-10.0),
        gold_lengths=torch.randint(1, T + 1, (B,), generator=draw),
        rationale_logps=uniform(B, low=-60.0, high=-10.0),
    )


def milliseconds(objective: Objective) -> list[float]:
    """Times of `REPEATS` evaluations with their gradients."""
    group = ragged_group(len(getattr(objective.config, "extra_weights", None) or [0]))
    leaves = [getattr(group, name).requires_grad_(True) for name in LEAVES]
    times = []
    for _ in range(WARM_UP + REPEATS):
        start = time.perf_counter()
        torch.autograd.grad(objective(group).loss, leaves, allow_unused=True)
        times.append(1e3 * (time.perf_counter() - start))
    return times[WARM_UP:]


def reads_tokens(objective: Objective) -> bool:
    """True where tensors with a token axis, or values over the vocabulary, enter the loss."""
    needs = objective.needs
    return any(
        getattr(needs, field.name) for field in fields(needs) if field.name.startswith("token")
    )


def main() -> None:
    """Measures every level, prints the table, writes the result."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--out", type=Path, default=RESULT)
    out: Path = flags.parse_args().out
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    print(f"{'level':18}{'median ms':>10}{'p90 ms':>8}")
    for name in level_names("objective"):
        objective = make_objective(name)
        times = sorted(milliseconds(objective))
        row = {
            "median_ms": round(statistics.median(times), 3),
            "p90_ms": round(times[int(0.9 * len(times))], 3),
            "tokens": reads_tokens(objective),
        }
        rows[name] = row
        note = "  reads tokens" if row["tokens"] else ""
        if row["median_ms"] >= TARGET_MS:
            note += f"  over {TARGET_MS:g} ms"
        print(f"{name:18}{row['median_ms']:10.2f}{row['p90_ms']:8.2f}{note}", flush=True)
    plain = [row["median_ms"] for row in rows.values() if not row["tokens"]]
    slow = [n for n, row in rows.items() if not row["tokens"] and row["median_ms"] >= TARGET_MS]
    print(
        f"\nwithout tokens: slowest median {max(plain):.2f} ms; over the target: {slow or 'none'}"
    )
    result = {
        "what": "median and 90th percentile of one forward and backward pass",
        "shape": {"prompts": B, "responses": K, "tokens": T, "dtype": "float32", "threads": 1},
        "repeats": REPEATS,
        "target_ms": TARGET_MS,
        "machine": {"cpu": cpu_model(), "system": platform.system()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "levels": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
