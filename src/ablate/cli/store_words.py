"""Words that subcommands on the store share: which folder, and a check for typing errors."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from ablate.cli.usage import Usage
from ablate.config.levels import conf_dir
from ablate.errors import ConfigError, StoreError
from ablate.store.layout import Layout


def split_words(argv: Sequence[str], usage: Usage) -> tuple[Layout, list[str], set[str]]:
    """The store, the plain words and the flags of a subcommand's line.

    `results_dir=DIR` chooses the folder; without it the default of the configuration holds.

    Raises:
        ConfigError: a setting other than results_dir.
        StoreError: no such folder.
    """
    usage.show_if_asked(argv)
    root, plain, flags = None, [], set()
    for word in argv:
        key, equals, value = word.partition("=")
        if equals and key == "results_dir":
            root = value
        elif equals:
            raise ConfigError(f"'{key}' means nothing here (usage: {usage})")
        elif word.startswith("-"):
            flags.add(word)
        else:
            plain.append(word)
    layout = Layout(Path(root or default_results_dir()).expanduser())
    if not layout.root.is_dir():
        raise StoreError(
            f"there is no results folder {layout.root.resolve()}; "
            "run `ablate` first, or name another with results_dir=DIR"
        )
    return layout, plain, flags


def default_results_dir() -> str:
    """The folder that runs write to when nothing else is said."""
    return str(OmegaConf.select(OmegaConf.load(conf_dir() / "config.yaml"), "results_dir"))
