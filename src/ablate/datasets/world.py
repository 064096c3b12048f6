"""What the embedded worlds share: prompts drawn without end, split by a hash of their text."""

import re
from abc import ABC, abstractmethod
from functools import cache
from typing import Any, ClassVar

from ablate.config.dataset import WorldConfig
from ablate.datasets.base import SPLITS, GivenResponse, Prompt
from ablate.datasets.draws import Draws, short_hash, unit_hash
from ablate.errors import ConfigError, DataError

#: How the prompts of each kind are divided. A prompt belongs to the part in which the hash of
#: its text falls, so parts are disjoint whatever the sizes, and seeds redraw the division.
_PARTS = {
    "id": {"sft": 0.5, "reward": 0.1, "train": 0.3, "valid": 0.04, "test": 0.06},
    "ood": {"train": 0.6, "reward": 0.1, "ood": 0.3},
}
#: prompts of the other kind whose labels a learnt reward may see; as many as of the split `reward`
REWARD_OOD = "reward_ood"
#: draws in a row without a new prompt after which a world is held to be exhausted
_PATIENCE = 2000


def words(text: str) -> list[str]:
    """The words and signs of a text, in lower case, without commas, stops and the like."""
    return re.findall(r"[a-z0-9]+|[+=]", text.lower())


class World(ABC):
    """An embedded world: prompts, demonstrations and judge made by rule.

    The i-th prompt of a split depends on the world, its seed, the split and i only; a larger
    split extends a smaller one.
    """

    VERSION: ClassVar[int]
    #: the highest score of the judge
    best_score: ClassVar[float]
    has_judge = True
    has_responses = False
    has_scores = True
    vocabulary: list[str] | None

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.name = config.name
        # per world, not per class: a world must die with its prompts
        self._drawn = cache(self._draw)

    @abstractmethod
    def make_prompt(self, draws: Draws, kind: str) -> tuple[str, dict[str, Any]]:
        """Text and facts of a random prompt; `kind` is `id` or `ood`."""

    @abstractmethod
    def demonstrate(self, draws: Draws, prompt: Prompt) -> str:
        """A demonstration for the prompt, of random quality."""

    @abstractmethod
    def perfect_response(self, prompt: Prompt) -> str:
        """A response to which the judge gives `best_score`."""

    @abstractmethod
    def judge(self, prompt: Prompt, response: str) -> float:
        """The exact quality of a response, from 0 to `best_score`."""

    @abstractmethod
    def nuisance_words(self, response: str) -> int:
        """How many words of the response are there for show: the judge does not pay for them."""

    def identity(self, split: str | None = None) -> dict[str, Any]:
        """Plain data that decides the content: of the whole world, or of one split only.

        The identity of a split leaves out what cannot change it (the sizes of the others, the
        nuisance outside the demonstrations), so that more work can be shared.
        """
        config = self.config
        plain: dict[str, Any] = {
            "world": config.world,
            "version": self.VERSION,
            "world_seed": config.world_seed,
        }
        if split is None:
            return plain | {
                "train_prompts": config.train_prompts,
                "nuisance": config.nuisance,
                "sizes": config.sizes.identity(),
            }
        plain |= {"split": split, "size": self._size(split)}
        if split == "train":
            plain["train_prompts"] = config.train_prompts
            if config.train_prompts != "id":
                # the division of this kind since a part of it is kept for reward models
                plain["ood_parts"] = 2
        if split == "sft":
            plain["nuisance"] = config.nuisance
        return plain

    def prompts(self, split: str, limit: int | None = None) -> list[Prompt]:
        """Prompts of a split, always in the same order; `limit` takes the first ones.

        `judge` holds none: the judge of a world is exact and needs no training.
        Raises `DataError` where the world has fewer prompts than the configured size.
        """
        size = self._size(split)
        return list(self._drawn(split, size if limit is None else min(limit, size)))

    def num_prompts(self, split: str) -> int:
        """The configured size of a split."""
        return self._size(split)

    def demonstrations(self) -> list[tuple[Prompt, str]]:
        """One demonstration of mixed quality for each prompt of the split `sft`."""
        seed = self.config.world_seed
        return [
            (prompt, self.demonstrate(Draws(self.config.world, seed, "demo", prompt.text), prompt))
            for prompt in self.prompts("sft")
        ]

    def responses(self, split: str) -> list[GivenResponse]:
        """None: the responses of a world are sampled from the SFT model."""
        self._size(split)
        return []

    def response_counts(self, split: str) -> dict[str, int]:
        """Empty: no response comes with a world."""
        self._size(split)
        return {}

    def gold(self, split: str) -> dict[str, str]:
        """None come with a world."""
        return {}

    def rationale(self, split: str) -> dict[str, str]:
        """None come with a world."""
        return {}

    def origin(self) -> dict[str, Any]:
        """Empty: prompts are drawn."""
        return {}

    def cleaning(self) -> dict[str, int]:
        """Empty: prompts are drawn apart, nothing is left out."""
        return {}

    def judge_identity(self) -> dict[str, Any]:
        """World and version: neither seed nor sizes change what the judge says."""
        return {"world": self.config.world, "version": self.VERSION}

    def _size(self, split: str) -> int:
        if split == "judge":
            return 0
        if split not in (*SPLITS, REWARD_OOD):
            raise ConfigError(f"unknown split '{split}'; the splits are {', '.join(SPLITS)}")
        return int(getattr(self.config.sizes, split.removesuffix("_ood")))

    def _draw(self, split: str, size: int) -> tuple[Prompt, ...]:
        if split == "train" and self.config.train_prompts == "mix":
            # taken in turn, so that every beginning of the split holds half of each
            of_each = {
                "id": self._draw_kind(split, "id", (size + 1) // 2),
                "ood": self._draw_kind(split, "ood", size // 2),
            }
            return tuple(of_each["ood" if i % 2 else "id"][i // 2] for i in range(size))
        kind = self.config.train_prompts if split == "train" else "id"
        return tuple(self._draw_kind(split, "ood" if split in ("ood", REWARD_OOD) else kind, size))

    def _draw_kind(self, split: str, kind: str, size: int) -> list[Prompt]:
        world, seed = self.config.world, self.config.world_seed
        part = "reward" if split == REWARD_OOD else split
        found: dict[str, Prompt] = {}
        attempt = last_success = 0
        while len(found) < size:
            text, facts = self.make_prompt(Draws(world, seed, kind, split, attempt), kind)
            attempt += 1
            if text not in found and self._part(text, kind) == part:
                found[text] = Prompt(short_hash(world, text), split, text, facts)
                last_success = attempt
            if attempt - last_success > _PATIENCE:
                raise DataError(
                    f"the world '{world}' has too few prompts of kind '{kind}' for "
                    f"dataset.sizes.{split}={size}; ask for at most {len(found)} of them"
                )
        return list(found.values())

    def _part(self, text: str, kind: str) -> str:
        """The part of the prompts of this kind to which a text belongs."""
        where = unit_hash(self.config.world, self.config.world_seed, "part", text)
        for part, share in _PARTS[kind].items():
            if where < share:
                return part
            where -= share
        return part
