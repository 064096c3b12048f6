"""Keeping the libraries' warnings, bars and prints off a console that is not theirs."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOGGERS = ("transformers", "trl", "datasets", "accelerate", "peft", "huggingface_hub")


@contextmanager
def quiet() -> Iterator[None]:
    """Within: the libraries log errors only, warn nothing and show no progress bars."""
    from transformers.utils import logging as transformers_logging

    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    bars = transformers_logging.is_progress_bar_enabled()
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class QuietTrainer:
    """Mixed in before a TRL trainer: no telemetry, no model card, no metrics printed."""

    def _send_telemetry(self) -> None:
        """TRL reports every trainer's start to its authors; nothing leaves this machine here."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL writes a README beside checkpoints; the record describes a run here."""


def silence(trainer: Any) -> None:
    """Remove the callbacks that print to the console."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
