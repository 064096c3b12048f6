"""Launchers of frozen runs, as Hydra plugins: `hydra/launcher=local` and `slurm`."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(
    group="hydra/launcher",
    name="local",
    node={
        "_target_": "hydra_plugins.ablate.launcher.LocalLauncher",
        "workers": None,
        "max_restarts": 0,
    },
    provider="ablate",
)


class FrozenLauncher(Launcher):
    """What our launchers share: they take frozen runs, not words to be composed again later."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config

    def check(self, plans: Sequence[Any]) -> None:
        """Refuses planned runs that cannot be launched as asked; the settings alone were checked
        when this launcher was made."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        """Refuses what other sweepers hand over."""
        from ablate.errors import ConfigError

        raise ConfigError("ablate's launchers take frozen runs: use hydra/sweeper=ablate")


class LocalLauncher(FrozenLauncher):
    """A pool of processes on this machine.

    Args:
        workers: jobs at a time; None: one per GPU, or one per core.
        max_restarts: how often a job whose process died (killed, out of memory) is started again;
            what failed with a reason is not, and a stage that runs share is at least once.
    """

    def __init__(self, workers: int | None, max_restarts: int) -> None:
        from ablate.errors import ConfigError

        if workers is not None and workers < 1:
            raise ConfigError(f"hydra.launcher.workers={workers} must be at least 1 (or null)")
        if max_restarts < 0:
            raise ConfigError(f"hydra.launcher.max_restarts={max_restarts} must not be negative")
        self.workers, self.max_restarts = workers, max_restarts

    def launch_runs(self, expansion: Any, arguments: Sequence[str]) -> Any:
        """Runs a sweep and prints its table."""
        from ablate.cli.sweep import sweep_locally

        return sweep_locally(expansion, list(arguments), self.workers, self.max_restarts)


class SlurmLauncher(FrozenLauncher):
    """Jobs on SLURM through submitit; the settings are those of conf/hydra/launcher/slurm.yaml."""

    def __init__(self, **settings: Any) -> None:
        from omegaconf import OmegaConf

        from ablate.config.launcher import slurm_config
        from ablate.launch.jobs import JOB_KINDS
        from ablate.stages.registry import KINDS

        plain = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)
        assert isinstance(plain, dict)
        self.settings = slurm_config({str(k): v for k, v in plain.items()}, [*KINDS, *JOB_KINDS])

    def check(self, plans: Sequence[Any]) -> None:
        """Refuses what `launch_runs` would before it submits."""
        from ablate.launch.slurm import check_available, check_tasks

        check_available()
        check_tasks(list(plans), self.settings)

    def launch_runs(self, expansion: Any, arguments: Sequence[str]) -> Any:
        """Freezes and submits the runs; returns at once unless `wait` was asked."""
        from ablate.cli.slurm_sweep import sweep_on_slurm

        return sweep_on_slurm(expansion, list(arguments), self.settings)
