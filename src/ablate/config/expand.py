"""Expansion of a sweep: from words with alternatives, or a named sweep, to frozen runs."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ablate.config.compose import COMMAND_LINE, CONFIG_NAME, freeze, readable_errors
from ablate.config.levels import level_names, read_level
from ablate.config.overrides import normalize
from ablate.config.run import RunConfig
from ablate.errors import ConfigError

SWEEP_KEY = "sweep"
#: what a sweep file may fix, before it runs, about the table that is made of it afterwards
ANALYSIS_KEYS = ("rows", "cols", "metrics", "baseline", "margin")


def expand(loader: Any, arguments: Sequence[str]) -> list[RunConfig]:
    """The runs of a sweep, each validated, in the order of the grid; equal runs stay.

    `+sweep=NAME` stands for the union of grids in `sweeps/NAME.yaml`; further words apply to all
    of its arms, and alternatives among them multiply it.

    Args:
        loader: Hydra's configuration loader.
        arguments: overrides, normalised or not.
    """
    words = [word for word in arguments if _key(word) != SWEEP_KEY]
    named = [word.split("=", 1)[1] for word in arguments if _key(word) == SWEEP_KEY]
    if len(named) > 1:
        raise ConfigError(f"give one sweep, not {len(named)}: {', '.join(named)}")
    composer = _Composer(loader)
    own = _own_folders(loader)
    with readable_errors():
        grids = _named_grids(named[0], own) if named else [[]]
        arms = [arm for grid in grids for arm in _product(loader, normalize([*grid, *words], own))]
        return [composer.compose(arm) for arm in arms]


def analysis_words(loader: Any, arguments: Sequence[str]) -> list[str]:
    """`analysis.<key>=<value>` for what the named sweep's file fixes about its table.

    They are frozen with the sweep: a margin chosen before the runs stays what it was.

    Raises:
        ConfigError: a key that means nothing, or a margin that is not positive.
    """
    named = [word.split("=", 1)[1] for word in arguments if _key(word) == SWEEP_KEY]
    words: list[str] = []
    for name in named:
        fixed = read_level(SWEEP_KEY, name, _own_folders(loader)).get("analysis") or {}
        unknown = sorted(set(fixed) - set(ANALYSIS_KEYS))
        if unknown:
            raise ConfigError(
                f"sweep {name}: analysis.{unknown[0]} means nothing; "
                f"there are {', '.join(ANALYSIS_KEYS)}"
            )
        margin = fixed.get("margin")
        if margin is not None and not (isinstance(margin, int | float) and margin > 0):
            raise ConfigError(f"sweep {name}: analysis.margin={margin} must be a positive number")
        words += [f"analysis.{key}={_alternatives(value)}" for key, value in fixed.items()]
    return words


def _own_folders(loader: Any) -> list[str]:
    """The configuration folders that were named on the command line."""
    return [
        entry.path.removeprefix("file://")
        for entry in loader.get_search_path().get_path()
        if entry.provider == COMMAND_LINE
    ]


def _key(word: str) -> str:
    return word.split("=", 1)[0].lstrip("+")


def _named_grids(name: str, search: Sequence[str]) -> list[list[str]]:
    """The grids of a named sweep as overrides: `arms` is a list of {factor: level or levels}."""
    content = read_level(SWEEP_KEY, name, search)
    grids = []
    for arm in content["arms"]:
        grid = {**arm, "seed": content["seeds"]} if "seeds" in content else dict(arm)
        grids.append([f"{key}={_alternatives(value)}" for key, value in grid.items()])
    return grids


def _alternatives(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_alternatives(item) for item in value)
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _product(loader: Any, words: Sequence[str]) -> Iterable[list[str]]:
    """Every combination of the alternatives, the last word varying fastest."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    for batch in BasicSweeper.split_arguments(parsed, None):
        yield from (list(arm) for arm in batch)


class _Composer:
    """Composes each set of group choices once; settings are applied to copies.

    One composition costs about 60 ms; a grid over hyper-parameters and seeds needs few of them.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.cache: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, arm: list[str]) -> RunConfig:
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.types import RunMode

        choices = tuple(word for word in arm if not _is_setting(word))
        if choices not in self.cache:
            self.cache[choices] = self.loader.load_configuration(
                config_name=CONFIG_NAME, overrides=list(choices), run_mode=RunMode.RUN
            )
        config = copy.deepcopy(self.cache[choices])
        OmegaConf.set_struct(config, True)
        settings = [word for word in arm if _is_setting(word)]
        parsed = OverridesParser.create().parse_overrides(settings)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
        return freeze(config)


def _is_setting(word: str) -> bool:
    """A plain `setting=value`, as opposed to a choice of a level, an addition or a deletion."""
    key = word.split("=", 1)[0]
    return key.replace(".", "").replace("_", "").isalnum() and "." in key and not level_names(key)
