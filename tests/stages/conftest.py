"""A store for whole runs."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the tests of a file share, so that SFT and pool are computed once."""
    return tmp_path_factory.mktemp("store")
