"""Trackers: a mirror of step metrics in Weights & Biases; the store never depends on it."""

import os
from pathlib import Path
from typing import Any, Protocol

from ablate.config.run import RunConfig
from ablate.errors import ConfigError


class Tracker(Protocol):
    """Receives training metrics by step and, at the end, the run's summary."""

    #: the mirror's id of this run, kept in the record; None where nothing is mirrored
    id: str | None

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def finish(self, summary: dict[str, Any]) -> None: ...


class NoTracker:
    """Mirrors nothing."""

    id: str | None = None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        return None

    def finish(self, summary: dict[str, Any]) -> None:
        return None


class WandbTracker:
    """One W&B run per attempt, opened when the first metric arrives.

    Offline runs cannot be appended to after a requeue, so the id is fixed by the caller and an
    online run resumes under it.
    """

    def __init__(self, run: RunConfig, mirror: str, name: str, folder: Path) -> None:
        self.id: str | None = mirror
        self.run_config, self.name, self.folder = run, name, folder
        self._run: Any = None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._open().log(metrics, step=step)

    def finish(self, summary: dict[str, Any]) -> None:
        run = self._open()
        for key, value in summary.items():
            run.summary[key] = value
        run.finish()

    def _open(self) -> Any:
        if self._run is None:
            os.environ.setdefault("WANDB_SILENT", "true")
            import wandb

            tracker = self.run_config.tracker
            self.folder.mkdir(parents=True, exist_ok=True)
            config = self.run_config.model_dump(
                exclude={"tracker", "runtime", "results_dir", "force", "keep"}
            )
            try:
                self._run = wandb.init(
                    project=tracker.project,
                    entity=tracker.entity,
                    mode="online" if tracker.mode == "online" else "offline",
                    id=self.id,
                    name=self.name,
                    dir=self.folder,
                    config=config,
                    resume="allow",
                    settings=wandb.Settings(
                        silent=True,
                        disable_git=True,
                        save_code=False,
                        x_disable_meta=True,
                        x_disable_stats=True,
                        console="off",
                    ),
                )
            except wandb.errors.UsageError as error:
                raise ConfigError(
                    f"W&B refused: {error}. Log in with `wandb login`, or use "
                    "tracker=wandb_offline or tracker=none"
                ) from error
        return self._run


def check_tracker(run: RunConfig) -> None:
    """Refuses an online tracker without a key, before any work.

    Raises:
        ConfigError: nobody is logged in.
    """
    if run.tracker.mode != "online":
        return
    import wandb

    if not wandb.login(prompt=False):
        raise ConfigError(
            f"tracker={run.tracker.name} needs a login: run `wandb login`, or use "
            "tracker=wandb_offline or tracker=none"
        )


def open_tracker(run: RunConfig, mirror: str, name: str, folder: Path) -> Tracker:
    """The tracker that the run asks for."""
    if run.tracker.mode == "none":
        return NoTracker()
    return WandbTracker(run, mirror, name, folder)
