"""Watching a policy's training: step metrics, checkpoints, the curve, and the end by divergence."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from ablate.config.training import TrainingConfig
from ablate.training.checkpoints import save_checkpoint

Report = Callable[[int, int, dict[str, float]], None]
Log = Callable[[int, dict[str, float]], None]


class Diverged(Exception):
    """Leaves the training loop before the optimizer's step."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


@dataclass(frozen=True)
class Curve:
    """What is measured of the policy in passing, every so many optimizer steps."""

    every: int
    #: metrics of the policy as it stands; must touch no random generator
    measure: Callable[[PreTrainedModel], dict[str, float]]


class Watch(TrainerCallback):
    """Checks each step before it is taken, writes its row, saves checkpoints."""

    def __init__(
        self,
        training: TrainingConfig,
        loss_floor: float | None,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        saved_dtype: torch.dtype | None,
        curve: Curve | None,
        report: Report | None,
        log: Log | None,
    ) -> None:
        self.training, self.folder, self.tokenizer = training, folder, tokenizer
        self.loss_floor, self.curve = loss_floor, curve
        self.saved_dtype, self.report, self.log = saved_dtype, report, log
        self.trainer: Any = None
        self.rows: list[dict[str, float]] = []
        self.checkpoints: list[tuple[int, Path]] = []
        #: rows of the curve
        self.points: list[dict[str, float]] = []
        self._started = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """Plain data: what was written down so far."""
        return {
            "rows": self.rows,
            "points": self.points,
            "steps": [step for step, _ in self.checkpoints],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave, and logs it again; checkpoints' folders must be there."""
        self.rows, self.points = list(state["rows"]), list(state["points"])
        self.checkpoints = [(step, self._place(step)) for step in state["steps"]]
        if self.log is not None:
            for row in self.rows:
                self.log(int(row["step"]), row)

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:05d}"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.global_step:
            self._measure(0)
        spent = self.rows[-1]["seconds"] if self.rows else 0.0
        self._started = time.perf_counter() - spent

    def _measure(self, step: int) -> None:
        if self.curve is None:
            return
        # one process measures, the others wait: all hold the same policy
        with self.trainer.live() as policy:
            if self.trainer.is_world_process_zero():
                self.points.append({"step": step, **self.curve.measure(policy)})
        self.trainer.accelerator.wait_for_everyone()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step + 1
        loss, norm = self.trainer.step_loss(), self.trainer.last_grad_norm
        reason = self._objection(loss, norm)
        row = {
            "step": step,
            "loss": loss,
            "grad_norm": norm,
            "lr": self.trainer._get_learning_rate(),
            **self.trainer.step_metrics(),
        }
        row["seconds"] = time.perf_counter() - self._started
        self.rows.append(row)
        if reason is not None:
            raise Diverged(step, reason)

    def _objection(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if self.loss_floor is not None and loss < self.loss_floor:
            return f"the loss {loss:.6g} is under objective.loss_floor={self.loss_floor:g}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        return None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, row = state.global_step, self.rows[-1]
        last = step == state.max_steps
        saved = last or step % self.training.checkpoint_every == 0
        measured = self.curve is not None and (last or step % self.curve.every == 0)
        if saved or measured:
            reason = self.trainer.probe()
            if reason is not None:
                raise Diverged(step, f"after its update {reason}")
        if saved:
            folder = self._place(step)
            save_checkpoint(self.trainer, self.tokenizer, folder, self.saved_dtype)
            self.checkpoints.append((step, folder))
        if measured:
            self._measure(step)
        if self.log is not None:
            self.log(step, row)
        if self.report is not None:
            self.report(step, state.max_steps, row)
