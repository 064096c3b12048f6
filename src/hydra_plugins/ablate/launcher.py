"""Launchers of frozen runs, as Hydra plugins: `hydra/launcher=local`."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(
    group="hydra/launcher",
    name="local",
    node={"_target_": "hydra_plugins.ablate.launcher.LocalLauncher", "workers": None},
    provider="ablate",
)


class LocalLauncher(Launcher):
    """A pool of processes on this machine.

    Args:
        workers: jobs at a time; None: one per GPU, or one per core.
    """

    def __init__(self, workers: int | None) -> None:
        from ablate.errors import ConfigError

        if workers is not None and workers < 1:
            raise ConfigError(f"hydra.launcher.workers={workers} must be at least 1 (or null)")
        self.workers = workers

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config

    def launch_runs(self, runs: Sequence[Any], arguments: Sequence[str]) -> Any:
        """Runs a sweep of frozen runs and prints its table."""
        from ablate.cli.sweep import sweep_locally

        return sweep_locally(runs, list(arguments), self.workers)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        """Other sweepers hand over words to be composed again later; frozen runs are wanted."""
        from ablate.errors import ConfigError

        raise ConfigError("hydra/launcher=local takes frozen runs: use hydra/sweeper=ablate")
