"""The dataset `local`: prompts with responses and preferences from a JSONL or Parquet file."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ablate.config.dataset import LocalConfig
from ablate.datasets.base import SPLITS, GivenResponse, Prompt
from ablate.datasets.draws import short_hash, unit_hash
from ablate.datasets.tables import Table, read_table
from ablate.errors import ConfigError, DataError


class LocalDataset:
    """Groups of responses that came with a file; nothing is sampled and there is no judge.

    Each row is a group: a prompt with `chosen` and `rejected` (scores 1 and 0), or with
    `responses` and `scores`, of any number from two up. A row belongs to the split that its
    column `split` names; where the file has no such column, the prompts are put in the order of
    their hashes and divided by the configured shares. All rows of `ood_path` belong to `ood`.
    Demonstrations are the best responses of the rows of `sft`, or of `train` where no row is of
    `sft`.
    """

    VERSION = 1
    vocabulary: list[str] | None = None
    has_judge = False
    has_responses = True

    def __init__(self, config: LocalConfig) -> None:
        self.config = config
        self.name = config.name
        self._most = config.pool.num_responses
        shares = self._shares()
        if sum(shares.values()) >= 1:
            raise ConfigError(
                f"the shares of dataset '{config.name}' add up to {sum(shares.values()):g} "
                f"({', '.join(f'{k}_share={v:g}' for k, v in shares.items())}); they must leave "
                "something for training: lower them until their sum is under 1"
            )
        self._tables = [read_table(Path(config.path).expanduser(), SPLITS, "path")]
        if config.ood_path is not None:
            ood = read_table(Path(config.ood_path).expanduser(), SPLITS, "ood_path")
            rows = [replace(row, split="ood") for row in ood.rows]
            self._tables.append(replace(ood, rows=rows))
        #: False where the file only says which of two responses is better
        self.has_scores = all(table.has_scores for table in self._tables)
        self._prompts: dict[str, list[Prompt]] = {split: [] for split in SPLITS}
        self._responses: dict[str, list[GivenResponse]] = {}
        self._sort(self._tables)
        if not self._prompts["train"]:
            raise DataError(
                f"{config.path}: no row is left for the split 'train'; the file holds "
                f"{len(self._tables[0].rows)} rows"
            )
        if not self._prompts["sft"]:
            self._prompts["sft"] = self._prompts["train"]

    def identity(self, split: str | None = None) -> dict[str, Any]:
        """Digests of the files' content with the shares; where the files lie is no part of it."""
        files = [table.sha256 for table in self._tables]
        plain = {"local": files, "version": self.VERSION, "shares": self._shares()}
        if any(len(row.responses) > self._most for table in self._tables for row in table.rows):
            plain["most_responses"] = self._most
        return plain if split is None else {**plain, "split": split}

    def prompts(self, split: str, limit: int | None = None) -> list[Prompt]:
        """Prompts of a split in the order of the file; `limit` takes the first ones."""
        if split not in SPLITS:
            raise ConfigError(f"unknown split '{split}'; the splits are {', '.join(SPLITS)}")
        return self._prompts[split][:limit]

    def num_prompts(self, split: str) -> int:
        """Rows of a split."""
        return len(self.prompts(split))

    def demonstrations(self) -> list[tuple[Prompt, str]]:
        """Each prompt for supervised fine-tuning with its best response (the first of equals)."""
        return [
            (prompt, max(self._responses[prompt.id], key=lambda given: given.score).text)
            for prompt in self.prompts("sft")
        ]

    def responses(self, split: str) -> list[GivenResponse]:
        """The responses of a split's prompts, in the order of `prompts`; ragged."""
        return [given for prompt in self.prompts(split) for given in self._responses[prompt.id]]

    def response_counts(self, split: str) -> dict[str, int]:
        """Number of responses by prompt id."""
        return {prompt.id: len(self._responses[prompt.id]) for prompt in self.prompts(split)}

    def judge(self, prompt: Prompt, response: str) -> float:
        """A file has no judge: always raises `DataError`."""
        raise self._no_judge()

    def judge_identity(self) -> dict[str, Any]:
        """A file has no judge: always raises `DataError`."""
        raise self._no_judge()

    def _no_judge(self) -> DataError:
        return DataError(
            f"dataset={self.name} has no rule that judges new responses; "
            "use judge=preference or judge=hf"
        )

    def _shares(self) -> dict[str, float]:
        config = self.config
        return {
            "reward": config.reward_share,
            "judge": config.judge_share,
            "valid": config.valid_share,
            "test": config.test_share,
        }

    def _sort(self, tables: list[Table]) -> None:
        """Put the rows into splits; refuse a prompt that would be in two of them."""
        first: dict[str, tuple[str, str]] = {}
        seen: dict[str, int] = {}
        for table in tables:
            by_hash = self._divide({row.prompt for row in table.rows if row.split is None})
            clashes = []
            for row in table.rows:
                split = row.split or by_hash[row.prompt]
                where = f"row {row.number} of {table.path.name} ({split})"
                other_split, other = first.setdefault(row.prompt, (split, where))
                if other_split != split:
                    clashes.append(f"{where} repeats {other}")
                    continue
                # two rows with one prompt stay two groups, told apart by a number
                again = seen[row.prompt] = seen.get(row.prompt, -1) + 1
                name = short_hash(row.prompt) + (f"-{again}" if again else "")
                self._prompts[split].append(Prompt(name, split, row.prompt))
                self._responses[name] = [
                    GivenResponse(name, index, text, score)
                    for index, (text, score) in enumerate(
                        islice(zip(row.responses, row.scores, strict=True), self._most)
                    )
                ]
            table.refuse(clashes, "the same prompt in two splits; give it one split")

    def _divide(self, prompts: set[str]) -> dict[str, str]:
        """The split of each prompt by its share: the order of the file plays no part.

        Every share above 0 gets at least one prompt, however short the file.
        """
        ranked = sorted(prompts, key=lambda prompt: unit_hash("local", prompt))
        split_of = dict.fromkeys(ranked, "train")
        start = 0
        for split, share in self._shares().items():
            end = start + (max(1, round(share * len(ranked))) if share > 0 else 0)
            split_of |= dict.fromkeys(ranked[start:end], split)
            start = end
        return split_of
