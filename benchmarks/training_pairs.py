"""Pairs: is our trainer faster than TRL's DPOTrainer on the same work?

Both are from the same installation and train the same LLaMA-shaped model on the same pairs, in the
same order, with DPO, AdamW and float32: whole optimizer steps, timed by callbacks, trainings of
both in turn within one process. TRL is timed with reference log-probs computed before and with a
reference model in every step; ours with stored reference log-probs, and with the pass that
computes them added. Losses of all steps must agree before a time counts. Prints a table and
writes benchmarks/results/training_pairs.json:

    python benchmarks/training_pairs.py
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from measuring import build, interleaved, machine, make_groups, ratios, spread, told, write
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from ablate.models.logps import response_logps
from ablate.models.packing import Packing
from ablate.models.tokenizer import build_tokenizer
from ablate.objectives import make_objective
from ablate.training.budget import Budget
from ablate.training.collate import GroupCollator
from ablate.training.groups import Group
from ablate.training.rpo import RPOTrainer
from ablate.training.source import FixedGroups
from ablate.trl_compat.arguments import Optimisation, common_arguments
from ablate.trl_compat.positions import PositionsTrainer
from ablate.trl_compat.quiet import quiet, silence

#: (prompt, response, ragged)
SHAPES = [(128, 128, False), (128, 32, False), (128, 128, True), (128, 32, True)]
BATCH, STEPS, ROUNDS = 16, 3, 3
BETA = 0.1


class Clock(TrainerCallback):
    """Seconds and loss of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.trainer: Any = None
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.losses.append(float(self.trainer._tr_loss))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)


class Tokenised(DPOTrainer):
    """TRL's trainer on token ids; with `ref_*_logps` columns nothing is computed before."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
        return dataset

    floating_point_ops = PositionsTrainer.floating_point_ops
    create_model_card = PositionsTrainer.create_model_card
    _send_telemetry = PositionsTrainer._send_telemetry


class Case:
    """One shape of data, trained by each way from the same weights."""

    def __init__(self, prompt: int, response: int, ragged: bool, width: int, layers: int) -> None:
        self.width, self.layers = width, layers
        self.tokenizer = build_tokenizer(["a"])
        self.reference = build(width, layers, seed=1).requires_grad_(False).eval()
        groups = make_groups(BATCH * STEPS, 2, prompt, response, ragged=ragged)
        self.items = [(group.prompt_ids, group.response_ids) for group in groups]
        known = response_logps(self.reference, self.tokenizer, self.items, 8192)
        self.groups = [
            Group(**{**group.__dict__, "ref_logps": row})
            for group, row in zip(groups, known, strict=True)
        ]
        self.losses: dict[str, list[float]] = {}

    def arguments(self, model: Any, folder: str) -> dict[str, Any]:
        optimisation = Optimisation(
            lr=1e-5,
            schedule="constant",
            warmup_steps=0,
            batch_size=BATCH,
            micro_batch_size=None,
            weight_decay=0.0,
            max_grad_norm=1.0,
        )
        return common_arguments(
            optimisation, output_dir=folder, seed=0, max_steps=STEPS, model=model, mixed_bf16=False
        )

    def _run(self, name: str, make: Callable[[Any, str, Clock], Any]) -> float:
        model, clock = build(self.width, self.layers), Clock()
        with tempfile.TemporaryDirectory() as folder, quiet():
            trainer = make(model, folder, clock)
            clock.trainer = trainer
            trainer.train()
        self.losses[name] = clock.losses
        # the first step warms caches and allocators
        return statistics.median(clock.seconds[1:])

    def ours(self) -> float:
        def make(model: Any, folder: str, clock: Clock) -> Any:
            packing = Packing.of(model.config)
            order = list(range(len(self.groups)))
            collator = GroupCollator(self.groups, order, 0, packing=packing)
            return RPOTrainer(
                model,
                self.arguments(model, folder),
                objective=make_objective("dpo", beta=BETA),
                source=FixedGroups(collator),
                budget=Budget(8192, None, found=True),
                num_positions=len(order),
                tokenizer=self.tokenizer,
                callbacks=[clock],
            )

        return self._run("ours", make)

    def reference_pass(self) -> float:
        """Seconds per step of computing the reference's log-probs, as the stage does it."""
        start = time.perf_counter()
        response_logps(self.reference, self.tokenizer, self.items, 8192)
        return (time.perf_counter() - start) / STEPS

    def trl(self, precomputed: bool) -> float:
        columns: dict[str, list[Any]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
        if precomputed:
            columns |= {"ref_chosen_logps": [], "ref_rejected_logps": []}
        for group in self.groups:
            assert group.rewards is not None
            assert group.ref_logps is not None
            best = int(group.rewards[1] > group.rewards[0])
            columns["prompt_ids"].append(group.prompt_ids)
            columns["chosen_ids"].append(group.response_ids[best])
            columns["rejected_ids"].append(group.response_ids[1 - best])
            if precomputed:
                columns["ref_chosen_logps"].append(group.ref_logps[best])
                columns["ref_rejected_logps"].append(group.ref_logps[1 - best])

        def make(model: Any, folder: str, clock: Clock) -> Any:
            config = DPOConfig(
                **self.arguments(model, folder),
                precompute_ref_log_probs=precomputed,
                beta=BETA,
                max_length=None,
            )
            trainer = Tokenised(
                model,
                None if precomputed else self.reference,
                args=config,
                train_dataset=Dataset.from_dict(columns),
                processing_class=self.tokenizer,
                callbacks=[clock],
            )
            silence(trainer)
            return trainer

        return self._run("TRL, precomputed" if precomputed else "TRL", make)

    def check(self) -> None:
        """All ways must have taken the same steps."""
        ours = self.losses["ours"]
        for name, losses in self.losses.items():
            worst = max(abs(left - right) for left, right in zip(ours, losses, strict=True))
            assert len(losses) == STEPS
            assert worst < 2e-3 * max(map(abs, ours)), (name, worst)


def main() -> None:
    """Measures every shape, prints the table, writes the result."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    flags.add_argument("--width", type=int, default=256)
    flags.add_argument("--layers", type=int, default=4)
    flags.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = flags.parse_args()
    torch.set_num_threads(chosen.threads)
    where, rows = machine(), []
    print(f"{'prompt':>6}{'response':>9}{'lengths':>8}  {'pairs/s ours, TRL':>18}  times faster")
    for prompt, response, ragged in SHAPES:
        case = Case(prompt, response, ragged, chosen.width, chosen.layers)
        ways = {
            "ours": case.ours,
            "reference pass": case.reference_pass,
            "TRL, precomputed": lambda case=case: case.trl(True),
            "TRL": lambda case=case: case.trl(False),
        }
        for way in ways.values():
            way()
        case.check()
        times = interleaved(ways, chosen.rounds, settle=0)
        case.check()
        with_reference = [
            sum(pair) for pair in zip(times["ours"], times["reference pass"], strict=True)
        ]
        tokens = sum(
            len(ids) + len(answer) for ids, answers in case.items for answer in answers
        ) / (STEPS * statistics.median(times["ours"]))
        row = {
            "prompt": prompt,
            "response": response,
            "lengths": "ragged" if ragged else "equal",
            "seconds_per_step": {name: spread(values) for name, values in times.items()},
            "pairs_per_second": {
                name: round(BATCH / statistics.median(values), 2)
                for name, values in times.items()
                if name != "reference pass"
            },
            "tokens_per_second_ours": round(tokens),
            "times_faster_precomputed": ratios(times["TRL, precomputed"], times["ours"]),
            "times_faster_with_reference": ratios(times["TRL"], with_reference),
            "losses": case.losses,
        }
        rows.append(row)
        pairs = row["pairs_per_second"]
        print(
            f"{prompt:6}{response:9}{row['lengths']:>8}  "
            f"{pairs['ours']:8.1f}{pairs['TRL, precomputed']:10.1f}  "
            f"{told(row['times_faster_precomputed'])}; the reference included "
            f"{told(row['times_faster_with_reference'])}",
            flush=True,
        )
    write(
        "training_pairs",
        "optimizer steps of DPO on pairs: ours against TRL's DPOTrainer",
        where,
        {
            "model": {"width": chosen.width, "layers": chosen.layers, "vocabulary": 4096},
            "batch": BATCH,
            "steps": STEPS,
            "rounds": chosen.rounds,
            "targets": {"prompt = response": 1.4, "prompt = 4 x response": 2.0},
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
