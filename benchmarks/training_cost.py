"""What does a step cost, by K and by the lengths of prompt and response?

Loss, gradient and update of a batch are timed over a grid; seconds = fixed + operations / rate is
fitted to all points of a model (relative errors weigh alike), operations counted as in
`ablate.models.flops`. Prints the points with their fit and writes benchmarks/results/cost.json,
from which a forecast can be made (with --package also what `ablate plan` assumes where a store has
no records):

    python benchmarks/training_cost.py
"""

import argparse
import json
import statistics
from functools import partial
from typing import Any

import numpy as np
import torch
from measuring import build, machine, make_groups, shape_of, timed, write
from training_responses import shared

from ablate.config.levels import read_level
from ablate.launch.cost import FITS
from ablate.models.flops import Work, group_work, training_flops
from ablate.objectives import make_objective
from ablate.training.groups import Group
from ablate.trl_compat.fused_head import attach

#: (K, prompt, response); the first of each model's curves is common to them
GRID = [
    (4, 64, 32),
    (2, 64, 32), (8, 64, 32), (16, 64, 32),
    (4, 16, 32), (4, 256, 32),
    (4, 64, 8), (4, 64, 128),
]  # fmt: skip
#: level of base_model, or (width, layers)
MODELS: dict[str, tuple[int, int] | None] = {
    "micro": None, "tiny": None, "small": None, "wide": (384, 6)
}  # fmt: skip
PROMPTS, ROUNDS, SMALL_VOCABULARY = 8, 3, 160


def fitted(flops: list[float], seconds: list[float]) -> tuple[float, float, float]:
    """(fixed seconds, operations per second, mean relative error) by weighted least squares."""
    count, wanted = np.array(flops), np.array(seconds)
    design = np.stack([np.ones_like(count), count], axis=1) / wanted[:, None]
    (fixed, slope), *_ = np.linalg.lstsq(design, np.ones_like(wanted), rcond=None)
    if fixed < 0:
        fixed, slope = 0.0, float(np.mean(wanted / count))
    error = np.abs((fixed + slope * count) / wanted - 1).mean()
    return float(fixed), float(1 / slope), float(error)


def measured(model: Any, rounds: int) -> list[dict[str, Any]]:
    """Seconds and operations of a step at every point of the grid."""
    attach(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    objective, points = make_objective("rpo_bwd"), []

    def step(groups: list[Group]) -> None:
        shared(model, groups, objective).backward()
        optimizer.step()
        optimizer.zero_grad()

    for k, prompt, response in GRID:
        groups = make_groups(PROMPTS, k, prompt, response)
        for group in groups:
            for ids in (group.prompt_ids, *group.response_ids):
                ids[:] = [token % model.config.vocab_size for token in ids]
        step(groups)
        seconds = [timed(partial(step, groups)) for _ in range(rounds)]
        work = sum((group_work(prompt, [response] * k) for _ in groups), start=Work(0, 0, 0))
        points.append(
            {
                "k": k,
                "prompt": prompt,
                "response": response,
                "prompts": PROMPTS,
                "flops": training_flops(shape_of(model), work),
                "seconds": round(statistics.median(seconds), 5),
            }
        )
    return points


def main() -> None:
    """Measures the grid on every model, prints the points, writes the fits."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    flags.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    flags.add_argument("--rounds", type=int, default=ROUNDS)
    flags.add_argument("--package", action="store_true", help="what `ablate plan` assumes from now")
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    where, found = machine(), {}
    for name in chosen.models:
        size = MODELS[name]
        if size is None:
            level = read_level("base_model", name)["architecture"]
            size = level["hidden_size"], level["num_layers"]
        # worlds have few words: there the head costs nearly nothing
        words = SMALL_VOCABULARY if MODELS[name] is None else 4096
        model = build(*size, vocabulary=words)
        weights = shape_of(model).weights
        points = measured(model, chosen.rounds)
        fixed, rate, error = fitted([p["flops"] for p in points], [p["seconds"] for p in points])
        found[name] = {
            "weights": weights,
            "width": size[0],
            "layers": size[1],
            "fixed_seconds": round(fixed, 5),
            "flops_per_second": round(rate),
            "mean_relative_error": round(error, 4),
            "points": points,
        }
        print(f"{name}: {fixed * 1e3:.1f} ms + operations / {rate / 1e9:.1f} GFLOP/s, "
              f"off by {100 * error:.0f} % on average")  # fmt: skip
        print(f"  {'K':>3}{'prompt':>7}{'response':>9}{'ms':>9}{'fit':>9}")
        for p in points:
            fit = fixed + p["flops"] / rate
            print(f"  {p['k']:3}{p['prompt']:7}{p['response']:9}{1e3 * p['seconds']:9.1f}"
                  f"{1e3 * fit:9.1f}")  # fmt: skip
    write(
        "cost",
        "seconds of a training step = fixed_seconds + operations / flops_per_second",
        where,
        {"rounds": chosen.rounds, "models": found},
    )
    if chosen.package:
        kept = ("weights", "fixed_seconds", "flops_per_second")
        fits = [{name: fit[name] for name in kept} for fit in found.values()]
        known = json.loads(FITS.read_text(encoding="utf-8"))
        FITS.write_text(json.dumps(known | {"machine": where, "fits": fits}, indent=1) + "\n")


if __name__ == "__main__":
    main()
