"""Composition through Hydra, and freezing: from words on a command line to a validated run."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ablate.config.levels import conf_dir
from ablate.config.overrides import normalize
from ablate.config.run import RunConfig, validate
from ablate.errors import AblateError, ConfigError, did_you_mean

CONFIG_NAME = "config"
#: provider of folders given with --config-dir in Hydra's search path
COMMAND_LINE = "command-line"


@contextlib.contextmanager
def hydra_session(config_dirs: Sequence[str] = ()) -> Iterator[Any]:
    """A Hydra instance over the shipped configuration and further folders, which come first.

    Raises:
        ConfigError: a folder that does not exist.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    search_path = create_config_search_path(str(conf_dir()))
    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise ConfigError(f"the configuration folder {folder} does not exist")
        search_path.prepend(provider=COMMAND_LINE, path=f"file://{Path(folder).resolve()}")
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2(task_name="ablate", config_search_path=search_path)
    finally:
        GlobalHydra.instance().clear()


def compose(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> RunConfig:
    """The frozen run of a list of overrides.

    Raises:
        ConfigError: an unknown factor, level or setting, or a value out of range.
    """
    from hydra.types import RunMode

    with hydra_session(config_dirs) as hydra, readable_errors(config_dirs):
        config = hydra.compose_config(
            config_name=CONFIG_NAME,
            overrides=normalize(overrides, config_dirs),
            run_mode=RunMode.RUN,
            with_log_configuration=False,
        )
        return freeze(without_hydra(config))


def without_hydra(config: DictConfig) -> DictConfig:
    """A composed configuration without Hydra's own node."""
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
    return config


def freeze(config: DictConfig) -> RunConfig:
    """Resolves every interpolation and validates; nothing is read from YAML afterwards.

    Args:
        config: without Hydra's own node.

    Raises:
        ConfigError: names the setting that is missing or wrong.
    """
    with readable_errors():
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return validate({str(key): value for key, value in plain.items()})


@contextlib.contextmanager
def readable_errors(config_dirs: Sequence[str] = ()) -> Iterator[None]:
    """Turns Hydra's and OmegaConf's exceptions into one clear message."""
    from hydra.errors import HydraException

    try:
        yield
    except MissingMandatoryValue as error:
        key = error.full_key or str(error)
        raise ConfigError(f"{key} must be given: add {key}=… to the command") from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error, config_dirs)) from error


def _explain(error: Exception, config_dirs: Sequence[str]) -> str:
    """Hydra's message without its advice on syntax that ablate does not use."""
    from hydra.errors import (
        ConfigCompositionException,
        MissingConfigException,
        OverrideParseException,
    )

    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, AblateError):
            return str(inner)
        inner = inner.__cause__
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.options is not None:
        name = str(error.missing_cfg_file or "")
        group, _, level = name.rpartition("/")
        options = [option for option in error.options if not option.startswith("_")]
        hint = did_you_mean(level, options)
        return f"there is no {group or 'level'} '{level}'.{hint} Known: {', '.join(options)}"
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and cause is not None:
        key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
        first = str(cause).strip().splitlines()[0]
        if key and "not in struct" in first:
            typed = text.partition("'")[2].partition("'")[0] or str(key)
            return (
                f"there is no setting '{typed}'.{_like(typed, cause)} `ablate --cfg job` shows all"
            )
        return first
    if text.startswith("Ambiguous value"):
        word = text.splitlines()[0].partition("'")[2].rpartition("'")[0]
        return f"{word}: several alternatives make a sweep, add -m"
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' is not of the form factor=level or setting=value"
    return text.splitlines()[0]


def _like(typed: str, cause: BaseException) -> str:
    """Which settings of the composed configuration may be meant by one that it has not."""
    node = getattr(cause, "parent_node", None)
    if node is None:
        return ""
    known: list[str] = []

    def walk(inner: Any, prefix: str) -> None:
        for key in inner:
            known.append(f"{prefix}{key}")
            child = inner._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                walk(child, f"{prefix}{key}.")

    walk(without_hydra(node._get_root()), "")
    # the end of a path alone
    ends = [path for path in known if path.endswith(f".{typed}")]
    if ends:
        return f" Did you mean {' or '.join(repr(path) for path in ends[:3])}?"
    # of the same depth, if any is near
    beside = [path for path in known if path.count(".") == typed.count(".")]
    return did_you_mean(typed, beside, most=3, cutoff=0.7) or did_you_mean(typed, known)
