"""Public preference sets: UltraFeedback, HelpSteer2 and 3, HH-RLHF, Nectar, through adapters."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from ablate.config.dataset import PublicConfig
from ablate.datasets.adapters import ADAPTERS, groups
from ablate.datasets.draws import unit_hash
from ablate.datasets.files import Source, find_source, read_records
from ablate.datasets.given import GivenDataset
from ablate.datasets.tables import Row
from ablate.errors import ConfigError, DataError


class PublicDataset(GivenDataset):
    """The groups of a public set, from the hub or a local folder of its schema.

    Rows of `files.main` are divided by the shares, those of `files.test` and `files.ood` belong to
    these splits. `max_prompts` limits each of the three: the groups whose prompts have the
    smallest hashes, so that a larger limit extends a smaller one; with `streaming` the first ones
    of the files, taken from the files in turn. Rows that hold no comparison (empty texts, no
    score) are left out and counted.
    """

    VERSION = 1

    def __init__(self, config: PublicConfig, source: Source | None = None) -> None:
        self.config = config
        self._adapter = ADAPTERS[config.adapter]
        weights = config.score
        self._weights = None if weights is None else {n: w for n, w in weights.items() if w}
        if self._adapter.weighted != bool(self._weights):
            raise ConfigError(
                f"dataset={config.name} has several scores per response: weigh them by "
                "dataset.score={name: weight}"
                if self._adapter.weighted
                else f"dataset={config.name} has one label per response: dataset.score must be null"
            )
        if config.streaming and config.max_prompts is None:
            raise ConfigError(
                "dataset.streaming=true reads as much as is needed: say how much by "
                "dataset.max_prompts"
            )
        self.has_scores = self._adapter.scored
        self.source = find_source(config) if source is None else source
        self._left_out: dict[str, int] = {}
        rows = [row for part in self.source.files for row in self._part(part)]
        if not rows:
            raise DataError(f"{self.source.place}: no row holds a comparison")
        super().__init__(config, rows, self.source.place)
        self._counts = self._left_out | self._counts

    def origin(self) -> dict[str, Any]:
        """Hub id and commit, or sha256 of the files."""
        return dict(self.source.content)

    def identity(self, split: str | None = None) -> dict[str, Any]:
        """Commit or digests of the files with all that decides which rows become which groups."""
        config = self.config
        plain: dict[str, Any] = {
            "public": config.adapter,
            "version": self.VERSION,
            "content": self.source.content,
            "score": self._weights,
            "shares": self.shares(),
            "max_prompts": config.max_prompts,
            "most_responses": config.pool.num_responses,
        }
        if config.max_prompts is not None:
            plain["streaming"] = config.streaming
        return plain if split is None else {**plain, "split": split}

    def _part(self, part: str) -> list[Row]:
        files, most = self.source.files[part], self.config.max_prompts
        split = None if part == "main" else part
        if self.config.streaming and most is not None:
            rows = list(islice(_in_turn([self._rows([file]) for file in files]), most))
        else:
            rows = list(self._rows(files))
            if most is not None and len(rows) > most:
                ranked = sorted(
                    range(len(rows)),
                    key=lambda place: (unit_hash("max_prompts", rows[place].prompt), place),
                )
                rows = [rows[place] for place in sorted(ranked[:most])]
        return [replace(row, split=split) for row in rows]

    def _rows(self, files: list[str]) -> Iterator[Row]:
        # the columns of a weighted score are checked with the others
        columns = self._adapter.columns
        if self._adapter.one_response:
            columns += tuple(self._weights or ())
        records = read_records(files, columns, self.config.hub)
        return groups(self._adapter, records, self._weights, self._leave_out)

    def _leave_out(self, what: str) -> None:
        self._left_out[what] = self._left_out.get(what, 0) + 1


def _in_turn(streams: list[Iterator[Row]]) -> Iterator[Row]:
    """One row of each stream after the other, until all have ended."""
    while streams:
        for stream in list(streams):
            row = next(stream, None)
            if row is None:
                streams.remove(stream)
            else:
                yield row
