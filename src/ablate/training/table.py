"""A table of a trainer's steps, filled while it runs and reported as it grows."""

import time
from collections.abc import Callable
from typing import Any

import pandas as pd
from transformers import TrainerCallback

Report = Callable[[int, int, dict[str, float]], None]

_NAMES = {"learning_rate": "lr", "mean_token_accuracy": "token_accuracy", "num_tokens": "tokens"}


class StepTable(TrainerCallback):
    """Collects what a trainer logs at every step."""

    def __init__(self, report: Report | None) -> None:
        self.report = report
        self.rows: list[dict[str, float]] = []
        self._started = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        spent = self.rows[-1]["seconds"] if self.rows else 0.0
        self._started = time.perf_counter() - spent

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        # the last log of a training run is a summary without a loss
        if not logs or "loss" not in logs:
            return
        row = {"step": state.global_step}
        for name, value in logs.items():
            if name != "epoch":
                row[_NAMES.get(name, name)] = float(value)
        row["seconds"] = time.perf_counter() - self._started
        self.rows.append(row)
        if self.report is not None:
            self.report(state.global_step, state.max_steps, row)

    def state(self) -> dict[str, Any]:
        """Plain data: the rows so far."""
        return {"rows": self.rows}

    def load(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        self.rows = list(state["rows"])

    def frame(self) -> pd.DataFrame:
        """One row per step."""
        return pd.DataFrame(self.rows)
