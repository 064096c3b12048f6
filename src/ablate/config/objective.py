"""Configuration of an objective: the slots it is composed of, what they need, and their limits."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, PositiveFloat, ValidationError, model_validator

from ablate.config.base import Node
from ablate.config.objective_rules import slot_problems
from ablate.errors import ConfigError

#: fields that describe a level and change nothing that is computed
_WORDS = ("arxiv", "title", "formula", "rpo_reading", "checked")


@dataclass(frozen=True)
class Needs:
    """What an objective must be given; the legality check compares it with what there will be."""

    #: log-probs under the reference policy
    reference: bool
    #: rewards whose differences mean something (order alone is not enough)
    scores: bool
    #: which response is better (rewards or ranks)
    order: bool
    #: completion lengths in tokens
    lengths: bool
    #: per-token log-probs
    tokens: bool
    #: rewards beside the one that made the preference
    extra_rewards: bool
    #: uses log-probs of mismatched pairs where they are given
    mismatched: bool
    #: present responses per prompt without which nothing can be compared
    min_responses: int
    #: the loss of a prompt depends on the other prompts of the global batch
    batch: bool


class ObjectiveConfig(Node):
    """One objective as a composition of slots (RPO framework, arXiv 2502.00203, generalised).

    A slot's own parameters are null where the slot does not use them. The level files in
    `conf/objective` say what the paper's values are and where they come from.
    """

    name: str
    #: arXiv id of the paper that the level follows
    arxiv: str | None
    title: str
    formula: str
    #: which distance, target and score of the RPO framework this is
    rpo_reading: str
    #: how the formula was verified
    checked: Literal["paper", "author_code", "second_implementation", "third_party"]
    #: whether the per-prompt constant β log Z(x) drops out of the loss
    log_z: Literal["cancels", "baseline", "ignored"]

    beta: PositiveFloat = Field(allow_inf_nan=False)
    reference: Literal["fixed", "none"]
    score: Literal[
        "sum", "mean", "ld", "log_odds", "alpha_shaped", "forward_kl", "js", "alpha_divergence"
    ]
    structure: Literal[
        "pair", "pointwise", "categorical", "loo", "centred", "ranking", "noise_contrastive"
    ]
    pairing: Literal["best_vs_random", "best_vs_worst", "all_pairs", "adjacent"] | None
    ties: Literal["drop", "half", "keep"]
    target: Literal["hard", "smoothed", "unbiased", "constant", "rewards"]
    distance: Literal["ce", "fwd", "sq", "hinge", "sigmoid", "discopop"]
    #: subtract the target's entropy from the cross-entropy, which makes it a KL divergence
    subtract_entropy: bool
    #: factor on the preference term (the ½ of a square, for instance)
    coefficient: PositiveFloat = Field(allow_inf_nan=False)
    #: a square in units of β·log-ratio ("reward"), or divided by β² ("log_ratio")
    units: Literal["reward", "log_ratio"]
    shift: Literal["none", "gamma", "length", "log_reward_gap", "extra_rewards"]
    baseline: Literal["none", "z0"] | None
    #: auxiliary terms by kind, each with its coefficient
    aux: dict[Literal["nll_best", "nll_best_mean", "sigmoid_best"], float]
    #: optimal transport over the global batch: sort the gaps of policy and reference, or the
    #: scores of better and worse responses, before they are compared
    batch_sort: Literal["none", "gaps", "scores"]
    #: how losses of prompts become one: the mean, or -b·log mean exp(-loss/b)
    aggregate: Literal["mean", "log_mean_exp"]

    eta: PositiveFloat | None = Field(allow_inf_nan=False)
    epsilon: float | None = Field(ge=0, lt=0.5)
    constant: float | None = Field(allow_inf_nan=False)
    gamma: float | None = Field(allow_inf_nan=False)
    gamma_beta_ratio: float | None = Field(allow_inf_nan=False)
    length_weight: float | None = Field(allow_inf_nan=False)
    gap_weight: float | None = Field(allow_inf_nan=False)
    extra_weights: list[float] | None
    ld_alpha: float | None = Field(ge=0, le=1)
    f_alpha: float | None = Field(allow_inf_nan=False)
    shape_alpha: float | None = Field(allow_inf_nan=False)
    tau: PositiveFloat | None
    aggregate_beta: PositiveFloat | None
    desirable_weight: PositiveFloat | None
    undesirable_weight: PositiveFloat | None

    @model_validator(mode="after")
    def _has_a_meaning(self) -> "ObjectiveConfig":
        problems = list(slot_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def identity(self) -> dict[str, Any]:
        """What enters a stage's identity: the slots, not the words that describe them."""
        return {key: value for key, value in super().identity().items() if key not in _WORDS}

    @property
    def unbounded_below(self) -> bool:
        """True where the loss has no lower bound, so that training needs a floor alarm."""
        return self.target == "unbiased" and self.epsilon != 0

    @property
    def needs(self) -> Needs:
        """What the objective must be given."""
        nll_mean = "nll_best_mean" in self.aux
        return Needs(
            reference=self.reference == "fixed",
            scores=self.target == "rewards" or self.shift == "log_reward_gap",
            order=self.target != "rewards" or bool(self.aux),
            lengths=self.score in ("mean", "log_odds", "alpha_shaped")
            or self.shift == "length"
            or nll_mean,
            tokens=self.score == "ld",
            extra_rewards=self.shift == "extra_rewards",
            mismatched=self.baseline == "z0",
            min_responses=2,
            batch=self.batch_coupled,
        )

    @property
    def batch_coupled(self) -> bool:
        """True where a prompt's loss depends on the other prompts of the global batch."""
        return self.baseline == "z0" or self.aggregate != "mean" or self.batch_sort != "none"


def objective_config(values: dict[str, Any]) -> ObjectiveConfig:
    """Check plain values of the `objective` node. Raises `ConfigError` with every problem."""
    try:
        return ObjectiveConfig.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            reason = item["msg"].removeprefix("Value error, ")
            if not where:
                lines.append(reason)
            elif item["type"] == "missing":
                lines.append(f"{where} is missing")
            elif item["type"] == "extra_forbidden":
                lines.append(f"{where} is not a field of an objective")
            else:
                lines.append(f"{where}={item['input']!r}: {reason[:1].lower()}{reason[1:]}")
        raise ConfigError(
            f"Objective '{values.get('name', '?')}': " + "; ".join(lines) + "."
        ) from error
