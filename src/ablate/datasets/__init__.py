"""Datasets: embedded worlds with their exact judges, local files and public preference sets."""

from collections.abc import Callable

from ablate.config.dataset import DatasetConfig, LocalConfig, PublicConfig
from ablate.datasets.base import SPLITS, GivenResponse, PreferenceDataset, Prompt
from ablate.datasets.files import find_source
from ablate.datasets.given import GivenDataset
from ablate.datasets.lists import Lists
from ablate.datasets.local import LocalDataset
from ablate.datasets.public import PublicDataset
from ablate.datasets.sums import Sums
from ablate.datasets.world import World

__all__ = [
    "SPLITS",
    "GivenDataset",
    "GivenResponse",
    "LocalDataset",
    "PreferenceDataset",
    "Prompt",
    "PublicDataset",
    "World",
    "open_dataset",
]

_WORLDS: dict[str, type[World]] = {"lists": Lists, "sums": Sums}


def open_dataset(config: DatasetConfig) -> PreferenceDataset:
    """The dataset of a configuration; files are read and checked here, in full.

    Raises `DataError` where a file does not hold what it promises.
    """
    if isinstance(config, LocalConfig):
        return LocalDataset(config)
    if isinstance(config, PublicConfig):
        source = find_source(config)
        return _opened(config, source.content, lambda: PublicDataset(config, source))
    return _opened(config, None, lambda: _WORLDS[config.world](config))


#: public sets and worlds that this process has opened: each stage opens them, and what they have
#: read or drawn is the same
_OPENED: dict[str, PreferenceDataset] = {}
_MOST_OPENED = 2


def _opened(
    config: DatasetConfig, content: object, make: Callable[[], PreferenceDataset]
) -> PreferenceDataset:
    key = f"{config.model_dump_json()}|{content}"
    if key not in _OPENED:
        while len(_OPENED) >= _MOST_OPENED:
            _OPENED.pop(next(iter(_OPENED)))
        _OPENED[key] = make()
    return _OPENED[key]
