"""The embedded worlds with the shipped levels, smaller and with chosen values."""

from collections.abc import Callable
from typing import Any

import pytest

from ablate.config.dataset import WorldConfig
from ablate.config.levels import read_level
from ablate.datasets import World, open_dataset
from ablate.datasets.lists import Lists
from ablate.datasets.sums import Sums

SMALL = {"sft": 300, "reward": 60, "train": 120, "valid": 40, "test": 50, "ood": 70}


def level(name: str) -> dict[str, Any]:
    """The plain content of a shipped level."""
    return read_level("dataset", name)


def _open(name: str, sizes: dict[str, int] | None = None, **values: Any) -> World:
    plain = level(name) | values
    plain["sizes"] = plain["sizes"] | (SMALL if sizes is None else sizes)
    world = open_dataset(WorldConfig.model_validate(plain))
    assert isinstance(world, World)
    return world


@pytest.fixture(scope="session")
def open_world() -> Callable[..., World]:
    """Opens a world by name, small unless `sizes` says otherwise, with chosen values."""
    return _open


@pytest.fixture(scope="session")
def lists() -> Lists:
    world = _open("lists")
    assert isinstance(world, Lists)
    return world


@pytest.fixture(scope="session")
def sums() -> Sums:
    world = _open("sums")
    assert isinstance(world, Sums)
    return world
