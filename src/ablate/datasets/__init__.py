"""Datasets: embedded worlds with their exact judges, local files and public preference sets."""

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
        return _open_public(config)
    return _WORLDS[config.world](config)


#: public sets that this process has read: large, and opened by every stage
_READ: dict[str, PublicDataset] = {}
_MOST_READ = 2


def _open_public(config: PublicConfig) -> PublicDataset:
    source = find_source(config)
    key = f"{config.model_dump_json()}|{source.content}"
    if key not in _READ:
        while len(_READ) >= _MOST_READ:
            _READ.pop(next(iter(_READ)))
        _READ[key] = PublicDataset(config, source)
    return _READ[key]
