"""An interrupted training, saved whole when the scheduler asks, and taken up where it stopped."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from ablate import preemption
from ablate.store import crash, files
from ablate.training.table import StepTable

#: our own part of a saved training
STATE = "ablate.json"
_TRAINER = "trainer"
_KEPT = "checkpoints"


class Pause(TrainerCallback):
    """Ends training after the step in which a process was asked to, and saves everything first.

    A saved training is a folder `step-00042` below `folder`: the trainer's own checkpoint
    (weights, optimizer, schedule, generators), the checkpoints that stand already, and what
    `state` says. It is written under another name, with a manifest of checksums, flushed to disk
    and renamed, so that it is there or not. The one before stays until `find` has verified this.

    Args:
        folder: where the training is kept; None leaves without saving.
        state: plain data beside the trainer's own, such as rows of metrics.
        kept: folder of the checkpoints that a training leaves; moved along.
    """

    def __init__(
        self, folder: Path | None, state: Callable[[], dict[str, Any]], kept: Path | None = None
    ) -> None:
        self.folder, self.state, self.kept = folder, state, kept
        self.trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps or not self._asked():
            return
        if self.folder is not None:
            self._save(self.folder, state.global_step)
        raise preemption.Preempted(f"after step {state.global_step} of {state.max_steps}")

    def _asked(self) -> bool:
        """Whether any process was asked: all must stop after the same step."""
        accelerator = self.trainer.accelerator
        asked = preemption.wanted()
        if accelerator.num_processes == 1:
            return asked
        flag = torch.tensor(float(asked), device=accelerator.device)
        return bool(accelerator.reduce(flag, reduction="sum").item() > 0)

    def _save(self, folder: Path, step: int) -> None:
        trainer = self.trainer
        leads, together = trainer.is_world_process_zero(), trainer.accelerator.wait_for_everyone
        trainer._save_checkpoint(trainer.model_wrapped, None)
        # gathered from all processes
        state = self.state()
        private = folder / f"writing-{step:05d}"
        source = Path(trainer.args.output_dir) / f"checkpoint-{step}"
        if leads:
            for left in folder.glob("writing-*"):
                shutil.rmtree(left, ignore_errors=True)
            private.mkdir(parents=True)
            shutil.move(source, private / _TRAINER)
            crash.point("saved-trainer-moved")
        together()
        if not leads:
            # the generators of this process, in a folder of its own so far
            for own in source.glob("rng_state_*.pth"):
                shutil.copyfile(own, private / _TRAINER / own.name)
        together()
        if leads:
            if self.kept is not None and self.kept.exists():
                shutil.copytree(self.kept, private / _KEPT)
            # metrics may be infinite, which our other JSON forbids
            (private / STATE).write_text(json.dumps(state), encoding="utf-8")
            crash.point("saved-state-written")
            files.write_manifest(private)
            files.publish(private, folder / f"step-{step:05d}")
            crash.point("saved-after-rename")
        together()


class LoggedPause(Pause):
    """The same after a step's log: for trainers whose rows of metrics come with it."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        return

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        # the last log of a training is a summary without a loss
        if logs and "loss" in logs:
            super().on_step_end(args, state, control)


class Saved:
    """A training that was saved whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def trainer(self) -> str:
        """What `Trainer.train(resume_from_checkpoint=...)` takes."""
        return str(self.folder / _TRAINER)

    def state(self) -> dict[str, Any]:
        """The plain data that `Pause.state` gave."""
        return dict(json.loads((self.folder / STATE).read_text(encoding="utf-8")))

    def restore_checkpoints(self, kept: Path) -> None:
        """Brings back the checkpoints that stood when the training was saved."""
        if (self.folder / _KEPT).exists():
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(self.folder / _KEPT, kept)


def find(folder: Path | None) -> Saved | None:
    """The newest training below a folder that is whole, or None.

    Half-written ones are no candidates. One that does not match its checksums (or has none) is set
    aside with a message, and an older one is taken, or none: the training then begins anew.
    """
    if folder is None or not folder.is_dir():
        return None
    for path in sorted(folder.glob("step-*"), key=_step, reverse=True):
        problem = files.damage(path)
        if problem is None:
            for older in folder.glob("*step-*"):
                if _step(older) < _step(path):
                    shutil.rmtree(older, ignore_errors=True)
                    crash.point("saved-older-removed")
            return Saved(path)
        aside = path.with_name(f"damaged-{path.name}-{time.time_ns()}")
        os.rename(path, aside)
        print(
            f"the training saved as {path} is damaged: {problem}; set aside as {aside.name}",
            file=sys.stderr,
        )
    return None


def _step(path: Path) -> int:
    """Of `step-00042`, or of `damaged-step-00042-...`."""
    return int(path.name.partition("step-")[2].partition("-")[0])


def find_together(folder: Path | None, trainer: Any) -> Saved | None:
    """The same for all processes of a training: the first one looks, the others go by its word."""
    saved = find(folder) if trainer.is_world_process_zero() else None
    if trainer.accelerator.num_processes > 1:
        (saved,) = broadcast_object_list([saved])
    return saved


def train_resumably(trainer: Any, table: StepTable, partial: Path | None) -> None:
    """Trains from the start or from where it was interrupted; a wish to end saves it in `partial`.

    Args:
        trainer: fills `table`, and tells and takes its `own_state`.
    """
    pause = LoggedPause(partial, lambda: table.state() | trainer.own_state())
    pause.trainer = trainer
    trainer.add_callback(pause)
    saved = find_together(partial, trainer)
    if saved is not None:
        table.load(saved.state())
        trainer.load_own_state(saved.state())
    with preemption.saving():
        trainer.train(resume_from_checkpoint=None if saved is None else saved.trainer)
