"""What datasets whose responses come with them share: splits, duplicates, demonstrations."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ablate.config.dataset import GivenConfig
from ablate.datasets.base import SPLITS, GivenResponse, Prompt
from ablate.datasets.chat import normalised
from ablate.datasets.draws import short_hash, unit_hash
from ablate.datasets.tables import Row
from ablate.errors import ConfigError, DataError

#: a prompt that stands in several splits stays in the first of these and leaves the others
PRECEDENCE = ("test", "ood", "valid", "judge", "reward", "train", "sft")
#: splits that may share prompts: both are seen in training
_SHARING = {"train", "sft"}


#: what is counted where a row has more responses than are used
CUT = "responses beyond dataset.pool.num_responses"


class GivenDataset:
    """Groups of responses that came with their prompts; nothing is sampled, there is no judge.

    A row belongs to the split that it names; rows that name none are divided by the configured
    shares in the order of their prompts' hashes, so the order of the rows plays no part. A prompt
    that stands in two splits (white space, letter case and Unicode form make no difference) stays
    in the more held-out one. Responses of a row with equal text become one, with the mean of their
    scores; a row that is left with one response is left out. Two rows with one prompt stay two
    groups. Demonstrations are the best responses of the rows of `sft`, or of `train` where no row
    is of `sft`.
    """

    vocabulary: list[str] | None = None
    has_judge = False
    has_responses = True

    def __init__(self, config: GivenConfig, rows: Sequence[Row], place: str) -> None:
        """`place` names the source in messages.

        Raises:
            ConfigError: shares that leave nothing.
            DataError: no row for training.
        """
        self.given = config
        self.name = config.name
        self.place = place
        shares = self.shares()
        if sum(shares.values()) >= 1:
            raise ConfigError(
                f"the shares of dataset '{config.name}' add up to {sum(shares.values()):g} "
                f"({', '.join(f'{k}_share={v:g}' for k, v in shares.items())}); they must leave "
                "something for training: lower them until their sum is under 1"
            )
        self._counts: dict[str, int] = {}
        self._prompts: dict[str, list[Prompt]] = {split: [] for split in SPLITS}
        self._responses: dict[str, list[GivenResponse]] = {}
        self._gold: dict[str, str] = {}
        self._rationale: dict[str, str] = {}
        self._sort(self._distinct(rows))
        if not self._prompts["train"]:
            raise DataError(
                f"{place}: no row is left for the split 'train'; it holds {len(rows)} rows"
            )
        if not self._prompts["sft"]:
            self._prompts["sft"] = self._prompts["train"]

    def prompts(self, split: str, limit: int | None = None) -> list[Prompt]:
        """Prompts of a split in the order of the rows; `limit` takes the first ones."""
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

    def gold(self, split: str) -> dict[str, str]:
        """Gold responses by prompt id, of the prompts that have one."""
        return {p.id: self._gold[p.id] for p in self.prompts(split) if p.id in self._gold}

    def rationale(self, split: str) -> dict[str, str]:
        """Rationales of the preference by prompt id, of the prompts that have one."""
        return {p.id: self._rationale[p.id] for p in self.prompts(split) if p.id in self._rationale}

    def nuisance_words(self, response: str) -> int:
        """Which words are for show is not known of free text: always raises `DataError`."""
        raise DataError(
            f"dataset={self.name} is free text: nobody knows which of its words are for show"
        )

    def cleaning(self) -> dict[str, int]:
        """What was left out or merged when the rows were read; only counts above 0."""
        return dict(self._counts)

    def judge(self, prompt: Prompt, response: str) -> float:
        """There is no judge: always raises `DataError`."""
        raise self._no_judge()

    def judge_identity(self) -> dict[str, Any]:
        """There is no judge: always raises `DataError`."""
        raise self._no_judge()

    def _no_judge(self) -> DataError:
        return DataError(
            f"dataset={self.name} has no rule that judges new responses; "
            "use judge=preference or judge=hf"
        )

    def shares(self) -> dict[str, float]:
        """The share of each split but `train`."""
        config = self.given
        return {
            "reward": config.reward_share,
            "judge": config.judge_share,
            "valid": config.valid_share,
            "test": config.test_share,
        }

    def count(self, what: str, number: int = 1) -> None:
        """Adds to a count of `cleaning`."""
        if number:
            self._counts[what] = self._counts.get(what, 0) + number

    def _distinct(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with one response for each text; rows of a single response are left out."""
        kept = []
        for row in rows:
            scores: dict[str, list[float]] = {}
            for text, score in zip(row.responses, row.scores, strict=True):
                scores.setdefault(text, []).append(score)
            self.count("responses merged with an equal one", len(row.responses) - len(scores))
            if len(scores) < 2:
                self.count("rows without two different responses")
                continue
            if len(scores) < len(row.responses):
                means = [sum(values) / len(values) for values in scores.values()]
                row = replace(row, responses=list(scores), scores=means)
            kept.append(row)
        return kept

    def _sort(self, rows: Sequence[Row]) -> None:
        """Put the rows into splits, each prompt into one only."""
        keys = [normalised(row.conversation) for row in rows]
        # prompts that differ in white space or letter case must not be divided
        spelling: dict[str, str] = {}
        for row, key in zip(rows, keys, strict=True):
            if row.split is None:
                spelling[key] = min(row.prompt, spelling.get(key, row.prompt))
        by_hash = self._divide(set(spelling.values()))
        splits = [row.split or by_hash[spelling[key]] for row, key in zip(rows, keys, strict=True)]
        first: dict[str, str] = {}
        for key, split in zip(keys, splits, strict=True):
            first[key] = min(split, first.get(key, split), key=PRECEDENCE.index)
        seen: dict[str, int] = {}
        for row, key, split in zip(rows, keys, splits, strict=True):
            if split != first[key] and not {split, first[key]} <= _SHARING:
                self.count(f"prompts of {split} that also stand in {first[key]}")
                continue
            # two rows with one prompt stay two groups, told apart by a number
            again = seen[row.prompt] = seen.get(row.prompt, -1) + 1
            name = short_hash(row.prompt) + (f"-{again}" if again else "")
            self._add(row, split, name)

    def _add(self, row: Row, split: str, name: str) -> None:
        facts = {} if row.reference is None else {"reference": row.reference}
        self._prompts[split].append(
            Prompt(name, split, row.prompt, facts, messages=row.messages, source=row.source)
        )
        most = self.given.pool.num_responses
        pairs = list(zip(row.responses, row.scores, strict=True))[:most]
        self.count(CUT, len(row.responses) - len(pairs))
        self._responses[name] = [
            GivenResponse(name, index, text, score) for index, (text, score) in enumerate(pairs)
        ]
        if row.gold is not None:
            self._gold[name] = row.gold
        if row.rationale is not None:
            self._rationale[name] = row.rationale

    def _divide(self, prompts: set[str]) -> dict[str, str]:
        """The split of each prompt by its share: the order of the rows plays no part.

        Every share above 0 gets at least one prompt, however few there are.
        """
        ranked = sorted(prompts, key=lambda prompt: unit_hash("local", prompt))
        split_of = dict.fromkeys(ranked, "train")
        start = 0
        for split, share in self.shares().items():
            end = start + (max(1, round(share * len(ranked))) if share > 0 else 0)
            split_of |= dict.fromkeys(ranked[start:end], split)
            start = end
        return split_of
