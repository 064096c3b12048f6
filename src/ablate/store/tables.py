"""Tables of the store: Parquet files through pandas, whole columns, nothing executed on reading."""

from pathlib import Path

import pandas as pd

from ablate.errors import StoreError


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Writes a table without its index."""
    frame.to_parquet(path, index=False)


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Reads a table.

    Raises:
        StoreError: names the file if it cannot be read.
    """
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
