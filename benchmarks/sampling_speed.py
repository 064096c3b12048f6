"""How many responses per second are drawn for the pool of the default world?

The claim: at least 1,500 per second on two cores. The model is the default one, fine-tuned as a
run does it (found in the store, or trained first); prompts, number of responses and limits are
the default ones. Rounds alternate between the settings, and medians over rounds are told: by the
clock, and by the processor's time, which other work on the machine disturbs less. Prints a table
and writes benchmarks/results/sampling_speed.json:

    python benchmarks/sampling_speed.py --threads 1 2
"""

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from measuring import cpu_model

from ablate.config.compose import compose
from ablate.config.dataset import Sampling
from ablate.datasets import open_dataset
from ablate.launch.sweep import layout_of
from ablate.models.tokenizer import encode_prompt
from ablate.sampling.sampler import open_sampler
from ablate.stages.common import MODEL, load_policy
from ablate.stages.execute import Execution
from ablate.stages.graph import plan
from ablate.store.stages import StageStore

TARGET = 1500
RESULT = Path(__file__).resolve().parent / "results" / "sampling_speed.json"


@dataclass
class Case:
    """One setting: a sampler, a number of threads and of prompts, and its measured seconds."""

    words: list[str]
    threads: int
    prompts: int
    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def draw(
        self, model: Any, tokenizer: Any, prompts: list[Any], sampling: Sampling, n: int
    ) -> int:
        """Draws the pool once and notes how long it took; the number of tokens drawn."""
        torch.set_num_threads(self.threads)
        config = compose(self.words).sampler
        clock, processor = time.perf_counter(), time.process_time()
        with open_sampler(config, model, tokenizer) as sampler:
            drawn = sampler.draw(prompts[: self.prompts], n, sampling=sampling, seed=0)
        self.clock.append(time.perf_counter() - clock)
        self.processor.append(time.process_time() - processor)
        return sum(len(response.ids) for response in drawn)


def main() -> None:
    """Measures every setting, prints the table, writes the result."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--results-dir", default="results", help="the store with the SFT model")
    flags.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--prompts", type=int, default=None, help="fewer than the default world's")
    flags.add_argument("--out", type=Path, default=RESULT)
    given = flags.parse_args()

    run = compose([f"results_dir={given.results_dir}"])
    layout = layout_of(run)
    stage = next(s for s in plan(run, layout).stages() if s.name == "sft")
    model, tokenizer = load_policy(Execution(StageStore(layout)).ensure(stage) / MODEL, run)
    dataset = open_dataset(run.dataset)
    prompts = [(p.id, encode_prompt(tokenizer, p.text)) for p in dataset.prompts("train")]
    prompts = prompts[: given.prompts]
    pool = run.dataset.pool

    first, few = given.threads[0], min(len(prompts), 128)
    cases = [Case([], threads, len(prompts)) for threads in given.threads]
    cases += [Case([f"sampler.batch_size={size}"], first, few) for size in (64, 256, 1024)]
    # on a CPU continuous batching is only there to be tried
    cases.append(Case(["sampler=continuous"], first, few))
    load_before = os.getloadavg()[0]
    tokens: dict[int, int] = {}
    for number in range(given.rounds + 1):
        for case in cases:
            found = case.draw(model, tokenizer, prompts, pool.sampling, pool.num_responses)
            assert tokens.setdefault(case.prompts, found) == found, (
                "the draws depend on the setting"
            )
            if number == 0:  # a first round warms up
                case.clock.clear()
                case.processor.clear()
    load_after = os.getloadavg()[0]

    print(f"{'setting':28}{'threads':>8}{'responses/s':>13}{'per CPU second':>16}")
    rows = []
    for case in cases:
        count = case.prompts * pool.num_responses
        row = {
            "setting": " ".join(case.words) or "default",
            "threads": case.threads,
            "responses": count,
            "per_second": round(count / statistics.median(case.clock)),
            "per_second_best": round(count / min(case.clock)),
            "per_cpu_second": round(count / statistics.median(case.processor)),
        }
        rows.append(row)
        print(
            f"{row['setting']:28}{row['threads']:>8}{row['per_second']:>13,}"
            f"{row['per_cpu_second']:>16,}"
        )
    print(f"\nload of the machine before and after: {load_before:.1f}, {load_after:.1f}")
    result = {
        "what": "responses per second for the pool of the default world",
        "target_per_second": TARGET,
        "model": "base_model=tiny after SFT",
        "prompts": len(prompts),
        "responses_per_prompt": pool.num_responses,
        "tokens_per_response": round(tokens[len(prompts)] / len(prompts) / pool.num_responses, 2),
        "rounds": given.rounds,
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "load_before": round(load_before, 1),
            "load_after": round(load_after, 1),
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "settings": rows,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
