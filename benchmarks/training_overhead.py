"""How much of a run is not training: the way to the first step, and the share of a step.

Way to the first step: a whole `ablate` command whose stages before the policy are in the store,
from the start of the process to the first optimizer step, against a process that only imports
torch, transformers and TRL's trainer; the two alternate. Share of a step: wall time of optimizer
steps of the `small` model outside forward (with the loss), backward and optimizer, by clocks around
them.
Prints a table and writes benchmarks/results/training_overhead.json:

    python benchmarks/training_overhead.py
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import build, interleaved, machine, make_groups, spread, told, write

from ablate.config.levels import read_level
from ablate.models.packing import Packing
from ablate.models.tokenizer import build_tokenizer
from ablate.objectives import make_objective
from ablate.training.budget import Budget
from ablate.training.collate import GroupCollator
from ablate.training.rpo import RPOTrainer
from ablate.training.source import FixedGroups
from ablate.trl_compat.arguments import Optimisation, common_arguments
from ablate.trl_compat.quiet import quiet

TARGETS = {"seconds_to_first_step": 2.0, "share_outside": 0.05}
IMPORTS = "import torch, transformers, trl; from trl import DPOTrainer"
#: the command, with a clock where the first step is taken
COMMAND = """
import os, sys, time
start = float(sys.argv[1])
def tell(self, *args, **kwargs):
    print(f"FIRST STEP {time.time() - start}", flush=True)
    os._exit(0)
import ablate.training.resume
ablate.training.resume.Pause.on_pre_optimizer_step = tell
from ablate.cli.main import run
run(sys.argv[2:])
"""
#: a run small enough to warm its stages in half a minute; the policy's seed alone differs
WORDS = ["dataset.sizes.sft=256", "dataset.sizes.train=256", "dataset.sizes.valid=8",
         "dataset.sizes.test=12", "dataset.sizes.ood=8", "dataset.pool.num_responses=4",
         "base_model.sft.steps=20", "evaluation.num_valid=8", "evaluation.num_test=12",
         "evaluation.num_ood=8", "tracker=none", "seed.scope=policy"]  # fmt: skip


class Clocks:
    """Seconds inside forward, backward and optimizer of a trainer, and of whole steps."""

    def __init__(self, trainer: Any) -> None:
        self.inside = 0.0
        #: when the optimizer's step began
        self.started = 0.0
        for owner, name in (
            (trainer, "compute_loss"),
            (trainer.accelerator, "backward"),
            (trainer, "_clip_grad_norm"),
        ):
            setattr(owner, name, self.around(getattr(owner, name)))

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self.inside += time.perf_counter() - start

        return call


def share_outside(steps: int, k: int) -> tuple[list[float], list[float]]:
    """Share of each step outside of forward, backward and optimizer, and its seconds."""
    from transformers import TrainerCallback

    level = read_level("base_model", "small")
    shape, batch = level["architecture"], level["preference_batch_size"]
    model = build(shape["hidden_size"], shape["num_layers"], vocabulary=160)
    # prompts and responses as long as those of the default world
    groups = make_groups(batch * steps, k, 14, 8, ragged=True)
    for group in groups:
        for ids in (group.prompt_ids, *group.response_ids):
            ids[:] = [5 + token % 150 for token in ids]
    optimisation = Optimisation(
        lr=1e-5,
        schedule="constant",
        warmup_steps=0,
        batch_size=batch,
        micro_batch_size=None,
        weight_decay=0.0,
        max_grad_norm=1.0,
    )
    collator = GroupCollator(groups, list(range(len(groups))), 0, packing=Packing.of(model.config))
    found: list[tuple[float, float]] = []

    class Ends(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.step_metrics()
            clocks.started = time.perf_counter()

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clocks.inside += time.perf_counter() - clocks.started

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found.append((time.perf_counter(), clocks.inside))

    with tempfile.TemporaryDirectory() as folder, quiet():
        arguments = common_arguments(
            optimisation, output_dir=folder, seed=0, max_steps=steps, model=model, mixed_bf16=False
        )
        trainer = RPOTrainer(
            model,
            arguments,
            objective=make_objective("rpo_bwd"),
            source=FixedGroups(collator),
            budget=Budget(8192, None, found=True),
            num_positions=len(groups),
            tokenizer=build_tokenizer(["a"]),
            callbacks=[Ends()],
        )
        clocks = Clocks(trainer)
        trainer.train()
    seconds = [after[0] - before[0] for before, after in itertools.pairwise(found)]
    inside = [after[1] - before[1] for before, after in itertools.pairwise(found)]
    shares = [1 - within / whole for within, whole in zip(inside, seconds, strict=True)]
    return shares[1:], seconds[1:]


def first_step(words: list[str], environment: dict[str, str]) -> float:
    """Seconds from the start of a process to its first optimizer step."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, repr(time.time()), *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    told_lines = [line for line in done.stdout.splitlines() if "FIRST STEP" in line]
    assert told_lines, done.stdout[-2000:] + done.stderr[-2000:]
    return float(told_lines[-1].split()[-1])


def main() -> None:
    """Measures both, prints the table, writes the result."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--steps", type=int, default=12)
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    where = machine()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    shares = {}
    for k in (2, 4, 8):
        outside, seconds = share_outside(chosen.steps, k)
        shares[str(k)] = {
            "share_outside": spread(outside),
            "seconds_per_step": spread(seconds),
        }
        print(f"small, K = {k}: {100 * statistics.median(outside):.1f} % of a step "
              f"({statistics.median(seconds):.3f} s) outside forward, backward, optimizer",
              flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        words = [*WORDS, f"results_dir={Path(folder) / 'results'}"]
        warm = [sys.executable, "-m", "ablate", *words]
        subprocess.run(warm, env=environment, check=True, capture_output=True)
        seeds = iter(range(1, 1000))

        def command() -> float:
            return first_step([*words, f"seed={next(seeds)}"], environment)

        def imports() -> float:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", IMPORTS], env=environment, check=True)
            return time.perf_counter() - start

        times = interleaved({"command": command, "imports": imports}, chosen.rounds)
    beyond = spread(
        [left - right for left, right in zip(times["command"], times["imports"], strict=True)]
    )
    print(f"first step after {told(spread(times['command']))} s, imports alone "
          f"{told(spread(times['imports']))} s: {told(beyond)} s beyond")  # fmt: skip
    write(
        "training_overhead",
        "time to the first optimizer step with warm stages, and the share of a step outside of "
        "forward, backward and optimizer",
        where,
        {
            "rounds": chosen.rounds,
            "targets": TARGETS,
            "first_step_seconds": spread(times["command"]),
            "import_seconds": spread(times["imports"]),
            "beyond_imports_seconds": beyond,
            "small": shares,
        },
    )


if __name__ == "__main__":
    main()
