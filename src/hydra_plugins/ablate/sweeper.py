"""The sweeper behind `-m`: arms as unions of grids, composed quickly, frozen, then launched."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="ablate",
    node={"_target_": "hydra_plugins.ablate.sweeper.AblateSweeper"},
    provider="ablate",
)


class AblateSweeper(Sweeper):
    """Expands a command line (and a named sweep) into frozen runs for an ablate launcher."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def check(self, plans: Sequence[Any]) -> None:
        """Refuses planned runs as `sweep` would, and starts nothing."""
        self._launcher().check(plans)

    def sweep(self, arguments: list[str]) -> Any:
        from ablate.config.expand import analysis_words, expand

        launcher = self._launcher()
        loader = self.hydra_context.config_loader
        fixed = analysis_words(loader, arguments)
        return launcher.launch_runs(expand(loader, arguments), [*arguments, *fixed])

    def _launcher(self) -> Any:
        from ablate.errors import ConfigError

        if not hasattr(self.launcher, "launch_runs"):
            raise ConfigError(
                f"hydra/launcher={type(self.launcher).__name__} takes no frozen runs; "
                "use hydra/launcher=local"
            )
        return self.launcher
