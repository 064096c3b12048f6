"""Trackers: a mirror of step metrics in Weights & Biases; the store never depends on it."""

import contextlib
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from ablate.config.run import RunConfig
from ablate.errors import ConfigError
from ablate.store.files import read_json, write_json
from ablate.store.secrets import scrub
from ablate.store.tables import read_table

#: how long the end of an interrupted run waits for the mirror: the scheduler does not
LEAVE_SECONDS = 20.0


class Tracker(Protocol):
    """Receives training metrics by step and, at the end, the run's summary; never fails a run."""

    #: the mirror's id of this run, kept in the record; None where nothing is mirrored
    id: str | None

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def finish(self, summary: dict[str, Any]) -> None: ...

    def leave(self) -> None:
        """The attempt ends without a record; another may go on under the same id."""
        ...


class NoTracker:
    """Mirrors nothing."""

    id: str | None = None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        return None

    def finish(self, summary: dict[str, Any]) -> None:
        return None

    def leave(self) -> None:
        return None


class WandbTracker:
    """One W&B run per revision of a run, opened when the first metric arrives.

    Its id is kept in `folder/ids` until the run has its record, so that an attempt that goes on
    after an interruption goes on in the same W&B run. Steps of earlier attempts come again, for a
    training that was saved tells what it had logged: an online run passes over those that it has;
    offline, where nothing can be appended, the log of the earlier attempt makes room for a whole
    one. In a run of several rounds, steps go on from round to round.

    Args:
        key: what names the revision, for the file of its id.
    """

    def __init__(self, run: RunConfig, key: str, name: str, folder: Path) -> None:
        self.run_config, self.name, self.folder = run, name, folder
        self._note = folder / "ids" / f"{key}.json"
        self.id: str | None = self._known_id() or f"{key}-{secrets.token_hex(4)}"
        self._run: Any = None
        self._broken = False
        #: the last step of this round, and those of the rounds before
        self._step = self._before = 0

    def _known_id(self) -> str | None:
        try:
            return str(read_json(self._note)["id"]) if self._note.exists() else None
        except Exception:
            return None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        if step <= self._step:
            self._before += self._step
        self._step = step
        total = self._before + step
        self._try(lambda: self._open().log(metrics, step=total))

    def finish(self, summary: dict[str, Any]) -> None:
        def end() -> None:
            run = self._open()
            for key, value in summary.items():
                run.summary[key] = value
            run.finish()

        self._try(end)
        self._run = None
        with contextlib.suppress(OSError):
            self._note.unlink(missing_ok=True)

    def leave(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        ended = threading.Thread(
            target=lambda: self._try(lambda: run.finish(exit_code=1)), daemon=True
        )
        ended.start()
        ended.join(LEAVE_SECONDS)

    def _try(self, action: Callable[[], None]) -> None:
        """A mirror that fails is told of once, and does without the rest."""
        if self._broken:
            return
        try:
            action()
        except Exception as error:
            self._broken = True
            if self._run is None:
                # nothing was mirrored
                self.id = None
            print(
                f"W&B takes no more: {type(error).__name__}: {scrub(str(error))}; the run goes on "
                "without its mirror",
                file=sys.stderr,
            )

    def _open(self) -> Any:
        if self._run is None:
            os.environ.setdefault("WANDB_SILENT", "true")
            import wandb

            tracker = self.run_config.tracker
            online = tracker.mode == "online"
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self._note, {"id": self.id})
            if not online:
                for older in self.folder.glob(f"wandb/offline-run-*-{self.id}"):
                    shutil.rmtree(older, ignore_errors=True)
            config = self.run_config.model_dump(
                exclude={"tracker", "runtime", "results_dir", "force", "keep"}
            )
            self._run = wandb.init(
                project=tracker.project,
                entity=tracker.entity,
                mode="online" if online else "offline",
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
        return self._run


def tell_again(tracker: Tracker, rounds: Iterable[Path]) -> None:
    """Mirrors rounds of training that are in the store already, by the folders of their stages."""
    if tracker.id is None:
        return
    for folder in rounds:
        table = folder / "train.parquet"
        if table.exists():
            for row in read_table(table).to_dict("records"):
                tracker.log(int(row["step"]), {str(name): value for name, value in row.items()})


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


def open_tracker(run: RunConfig, key: str, name: str, folder: Path) -> Tracker:
    """The tracker that the run asks for; `key` names the revision of the run."""
    if run.tracker.mode == "none":
        return NoTracker()
    return WandbTracker(run, key, name, folder)
