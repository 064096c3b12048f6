"""How near to the machine's limit does training come?

Counted model operations per second (`ablate.models.flops`: layers, attention over what is seen,
head where something is predicted; no padding, no recomputation) of loss and gradient with K
responses per prompt, over the rate of a large matrix product, measured in turn in the same process.
Prints a table and writes benchmarks/results/training_limit.json:

    python benchmarks/training_limit.py
"""

import argparse
from typing import Any

import torch
from measuring import build, machine, make_groups, matrix_rate, shape_of, spread, timed, told, write
from training_responses import shared

from ablate.models.flops import Work, group_work, training_flops
from ablate.objectives import make_objective
from ablate.trl_compat.fused_head import attach

WIDTH, LAYERS, PROMPTS, ROUNDS = 512, 8, 4, 5
#: (K, prompt, response)
SHAPES = [(2, 128, 128), (8, 128, 32), (8, 64, 64)]
TARGET = 0.6


def main() -> None:
    """Measures every shape, prints the table, writes the result."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    flags.add_argument("--width", type=int, default=WIDTH)
    flags.add_argument("--layers", type=int, default=LAYERS)
    flags.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    where, rows = machine(), []
    model, objective = build(chosen.width, chosen.layers), make_objective("rpo_bwd")
    attach(model)
    print(f"{'K':>3}{'prompt':>7}{'response':>9}{'GFLOP/s':>9}{'product':>9}  share of the limit")
    for k, prompt, response in SHAPES:
        groups = make_groups(PROMPTS, k, prompt, response)
        work = sum(
            (group_work(len(g.prompt_ids), [len(ids) for ids in g.response_ids]) for g in groups),
            start=Work(0, 0, 0),
        )
        flops = training_flops(shape_of(model), work)

        def step(groups: list[Any] = groups) -> None:
            model.zero_grad(set_to_none=True)
            shared(model, groups, objective).backward()

        step()
        rates, limits = [], []
        for _ in range(chosen.rounds):
            limits.append(matrix_rate())
            rates.append(flops / timed(step))
        share = spread([rate / limit for rate, limit in zip(rates, limits, strict=True)])
        row = {
            "k": k,
            "prompt": prompt,
            "response": response,
            "gflops_per_second": spread([rate / 1e9 for rate in rates]),
            "matrix_gflops_per_second": spread([limit / 1e9 for limit in limits]),
            "share": share,
        }
        rows.append(row)
        print(
            f"{k:3}{prompt:7}{response:9}{row['gflops_per_second']['median']:9.1f}"
            f"{row['matrix_gflops_per_second']['median']:9.1f}  {told(share)}",
            flush=True,
        )
    write(
        "training_limit",
        "model operations per second over those of a large matrix product",
        where,
        {
            "model": {"width": chosen.width, "layers": chosen.layers, "vocabulary": 4096},
            "prompts": PROMPTS,
            "rounds": chosen.rounds,
            "target": TARGET,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
