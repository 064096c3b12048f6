"""The dataset `local`: prompts with responses and preferences from a JSONL or Parquet file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ablate.config.dataset import LocalConfig
from ablate.datasets.base import SPLITS
from ablate.datasets.given import CUT, GivenDataset
from ablate.datasets.tables import read_table


class LocalDataset(GivenDataset):
    """The groups of one file, and of a second one whose rows are all `ood`.

    Each row is a group: a prompt with `chosen` and `rejected` (scores 1 and 0), or with
    `responses` and `scores`, of any number from two up. See `GivenDataset` for splits.
    """

    VERSION = 1

    def __init__(self, config: LocalConfig, problems: list[str] | None = None) -> None:
        """What is wrong with single rows is added to `problems`, or raised where it is None.

        Raises:
            DataError: names the file and what is wrong with it.
        """
        tables = [read_table(Path(config.path).expanduser(), SPLITS, "path", problems)]
        if config.ood_path is not None:
            ood = read_table(Path(config.ood_path).expanduser(), SPLITS, "ood_path", problems)
            tables.append(replace(ood, rows=[replace(row, split="ood") for row in ood.rows]))
        #: False where the file only says which of two responses is better
        self.has_scores = all(table.has_scores for table in tables)
        self._files = [table.sha256 for table in tables]
        rows = [row for table in tables for row in table.rows]
        self._cut = any(len(row.responses) > config.pool.num_responses for row in rows)
        super().__init__(config, rows, config.path)

    def origin(self) -> dict[str, Any]:
        """sha256 of the files."""
        return {"files": self._files}

    def identity(self, split: str | None = None) -> dict[str, Any]:
        """Digests of the files' content with the shares; where the files lie is no part of it."""
        plain = {"local": self._files, "version": self.VERSION, "shares": self.shares()}
        if self._cut:
            plain["most_responses"] = self.given.pool.num_responses
        if set(self.cleaning()) - {CUT}:
            # files of which nothing is left out or merged read as they always did
            plain["cleaned"] = 1
        return plain if split is None else {**plain, "split": split}
