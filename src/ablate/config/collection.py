"""Configuration of collection: how often responses are drawn anew from the policy in training."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from ablate.config.base import Node
from ablate.config.dataset import Sampling


class CollectionConfig(Node):
    """One continuum: never (offline), every round (iterative), every n optimizer steps (online).

    Rounds and refreshing go together: `rounds: 3` with `refresh_every: 1` is online training in
    three rounds, each from the policy of the last.
    """

    name: str
    rounds: PositiveInt
    #: prompts of one round, as a share of the train split
    round_prompts: float = Field(gt=0, le=1)
    #: by round: the share of a round's prompts that no round has seen; the last value holds on
    new_prompts: list[Annotated[float, Field(ge=0, le=1)]] = Field(min_length=1)
    #: from the second round on: reference and initial weights are the last policy's or SFT's
    reference: Literal["last", "sft"]
    init: Literal["last", "sft"]
    #: optimizer steps between two draws from the current policy; null: drawn before training
    refresh_every: PositiveInt | None
    #: responses drawn per prompt and refresh, of which `num_responses` picks K; null: K
    num_samples: PositiveInt | None
    #: how responses are drawn; null: as the pool's
    sampling: Sampling | None
    #: optimizer steps between two points of the over-optimisation curve; null: no curve
    curve_every: PositiveInt | None
    curve_prompts: PositiveInt

    @property
    def kind(self) -> Literal["offline", "iterative", "online", "semi_online"]:
        """What the settings amount to, whatever the level is called."""
        if self.refresh_every is not None:
            return "online" if self.refresh_every == 1 else "semi_online"
        return "offline" if self.rounds == 1 else "iterative"

    @property
    def fresh(self) -> bool:
        """Whether any response is drawn from a policy in training."""
        return self.kind != "offline"

    def new_share(self, number: int) -> float:
        """The share of new prompts in a round, counted from 1; the first has no others."""
        if number == 1:
            return 1.0
        return self.new_prompts[min(number, len(self.new_prompts)) - 1]

    def drawing(self, pool: Sampling) -> dict[str, Any]:
        """What decides the draws of a refresh (plain data for an identity)."""
        return {
            "refresh_every": self.refresh_every,
            "num_samples": self.num_samples,
            "sampling": (self.sampling or pool).identity(),
        }


def round_prompts(config: CollectionConfig, total: int) -> list[tuple[int, int, int]]:
    """Which of a split's `total` prompts each round takes: (first, last, old).

    The new ones are those from position `first` up to `last`; `old` are drawn from those before
    `first`. Fewer rounds are the beginning of more.
    """
    size = _share(config.round_prompts, total)
    found = []
    first = 0
    for number in range(1, config.rounds + 1):
        new = _share(config.new_share(number), size)
        found.append((first, first + new, size - new))
        first += new
    return found


def _share(share: float, total: int) -> int:
    """Rounded down, so that shares that add up to one never ask for more than there is."""
    return int(share * total + 1e-9)
