"""K responses: what a shared prompt saves against K flattened sequences.

The obvious way gives every response a row of its own, prompt included, padded as TRL's collator
pads, and scores it with TRL's fused head; ours shares the prompt and packs. Both compute one loss
of rpo_bwd and its gradient for the same prompts, model and weights; the two ways alternate. Losses
must agree before a time counts. Peak memory is measured in a process of its own for each way: the
highest resident set during loss and gradient (looked at every millisecond), less what was resident
before. Prints a table and
writes benchmarks/results/training_responses.json:

    python benchmarks/training_responses.py
"""

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from measuring import build, interleaved, machine, make_groups, ratios, spread, timed, told, write
from trl.trainer.utils import add_fused_lm_head

from ablate.groups import PromptGroup
from ablate.models.packing import Packing
from ablate.objectives import Objective, make_objective
from ablate.training.collate import GroupCollator
from ablate.training.groups import Group
from ablate.training.scoring import scored_group
from ablate.trl_compat.fused_head import attach

COUNTS = (2, 4, 8, 16)
PROMPT, RESPONSE, PROMPTS, ROUNDS = 128, 32, 4, 5
TARGETS = {"4": 1.8, "8": 3.0}


def obvious(model: Any, groups: list[Group], objective: Objective) -> torch.Tensor:
    """K rows per prompt, right-padded, every token through the head."""
    rows = [(group.prompt_ids, ids) for group in groups for ids in group.response_ids]
    width = max(len(prompt) + len(ids) for prompt, ids in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    attention, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor([*prompt, *response])
        attention[row, :end] = 1
        labels[row, len(prompt) : end] = ids[row, len(prompt) : end]
    output = model(
        input_ids=ids, attention_mask=attention, labels=labels, fused_lm_head=True, use_cache=False
    )
    logps = output.log_probs.sum(dim=1).view(len(groups), -1)
    grid = {
        "ref_logps": torch.tensor([group.ref_logps for group in groups]),
        "rewards": torch.tensor([group.rewards for group in groups]),
    }
    return objective(PromptGroup(logps, **grid)).loss


def shared(model: Any, groups: list[Group], objective: Objective) -> torch.Tensor:
    """As the trainer does it."""
    packing = Packing.of(model.config)
    collator = GroupCollator(groups, list(range(len(groups))), 0, packing=packing)
    batch = collator([{"index": place} for place in range(len(groups))])
    return objective(scored_group(model, batch, objective, True, None)).loss


def prepared(way: str, k: int, width: int, layers: int, ragged: bool) -> Callable[[], float]:
    """Loss and gradient by one way, as a function that gives the loss."""
    model, objective = build(width, layers), make_objective("rpo_bwd")
    groups = make_groups(PROMPTS, k, PROMPT, RESPONSE, ragged=ragged)
    if way == "shared":
        attach(model)
    else:
        add_fused_lm_head(model)
    work = {"shared": shared, "obvious": obvious}[way]

    def run() -> float:
        model.zero_grad(set_to_none=True)
        loss = work(model, groups, objective)
        loss.backward()
        return float(loss.detach())

    return run


def peak(way: str, k: int, width: int, layers: int) -> float:
    """MiB that loss and gradient take above the model, in this process."""
    run = prepared(way, k, width, layers, False)
    gc.collect()
    before, highest = _resident(), [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            highest[0] = max(highest[0], _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(highest[0], _resident()) - before


def _resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def elsewhere(way: str, k: int, chosen: argparse.Namespace) -> float:
    """`peak` in a fresh process."""
    words = [sys.executable, __file__, "--peak", way, str(k)]
    words += ["--threads", str(chosen.threads), "--width", str(chosen.width)]
    words += ["--layers", str(chosen.layers)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measures every K, prints the table, writes the result."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    flags.add_argument("--width", type=int, default=256)
    flags.add_argument("--layers", type=int, default=4)
    flags.add_argument("--rounds", type=int, default=ROUNDS)
    flags.add_argument("--peak", nargs=2, metavar=("WAY", "K"))
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.peak:
        way, k = chosen.peak
        print(json.dumps(peak(way, int(k), chosen.width, chosen.layers)))
        return
    where, rows = machine(), []
    print(f"prompt {PROMPT}, response {RESPONSE}, {PROMPTS} prompts per pass")
    print(f"{'K':>3}{'lengths':>8}{'prompts/s':>11}  times faster         peak MiB, and share")
    for ragged in (False, True):
        for k in COUNTS:
            ways = {
                way: prepared(way, k, chosen.width, chosen.layers, ragged)
                for way in ("obvious", "shared")
            }
            losses = {way: run() for way, run in ways.items()}
            assert abs(losses["obvious"] - losses["shared"]) <= 1e-4 * abs(losses["shared"]), losses
            clocks = {way: (lambda run=run: timed(run)) for way, run in ways.items()}
            times = interleaved(clocks, chosen.rounds)
            row: dict[str, Any] = {
                "k": k,
                "lengths": "ragged" if ragged else "equal",
                "seconds": {way: spread(values) for way, values in times.items()},
                "prompts_per_second": round(PROMPTS / statistics.median(times["shared"]), 2),
                "times_faster": ratios(times["obvious"], times["shared"]),
                "losses": losses,
            }
            memory = ""
            if not ragged:
                taken = {way: round(elsewhere(way, k, chosen), 1) for way in ways}
                row["peak_mib"] = taken
                row["memory_share"] = round(taken["shared"] / taken["obvious"], 3)
                memory = f"{taken['shared']:8.0f} of {taken['obvious']:.0f}: {row['memory_share']}"
            rows.append(row)
            print(
                f"{k:3}{row['lengths']:>8}{row['prompts_per_second']:11.1f}  "
                f"{told(row['times_faster']):20} {memory}",
                flush=True,
            )
    write(
        "training_responses",
        "loss and gradient of rpo_bwd: shared prompts against K flattened sequences",
        where,
        {
            "model": {"width": chosen.width, "layers": chosen.layers, "vocabulary": 4096},
            "prompt": PROMPT,
            "response": RESPONSE,
            "prompts": PROMPTS,
            "rounds": chosen.rounds,
            "targets": {"times_faster": TARGETS, "memory_share": {"8": 0.5}},
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
