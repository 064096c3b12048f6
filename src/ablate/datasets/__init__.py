"""Datasets: the embedded worlds `lists` and `sums` with their exact judges, and local files."""

from ablate.config.dataset import DatasetConfig, LocalConfig
from ablate.datasets.base import SPLITS, GivenResponse, PreferenceDataset, Prompt
from ablate.datasets.lists import Lists
from ablate.datasets.local import LocalDataset
from ablate.datasets.sums import Sums
from ablate.datasets.world import World

__all__ = [
    "SPLITS",
    "GivenResponse",
    "LocalDataset",
    "PreferenceDataset",
    "Prompt",
    "World",
    "open_dataset",
]

_WORLDS: dict[str, type[World]] = {"lists": Lists, "sums": Sums}


def open_dataset(config: DatasetConfig) -> PreferenceDataset:
    """The dataset of a configuration; a local file is read and checked here, in full.

    Raises `DataError` where a file does not hold what it promises.
    """
    if isinstance(config, LocalConfig):
        return LocalDataset(config)
    return _WORLDS[config.world](config)
