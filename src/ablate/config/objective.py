"""Configuration of an objective: the slots it is composed of, what they need, and their limits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, PositiveFloat, ValidationError, model_validator

from ablate.config.base import Node
from ablate.errors import ConfigError

#: distances that each structure can measure with
DISTANCES: dict[str, tuple[str, ...]] = {
    "pair": ("ce", "fwd", "sq", "hinge", "sigmoid", "discopop"),
    "pointwise": ("ce", "sq", "sigmoid"),
    "categorical": ("ce", "fwd"),
    "loo": ("sq",),
    "centred": ("sq",),
    "ranking": ("ce",),
    "noise_contrastive": ("ce",),
}
#: targets that each structure can aim at
STRUCTURE_TARGETS: dict[str, tuple[str, ...]] = {
    "pair": ("hard", "smoothed", "unbiased", "constant", "rewards"),
    "pointwise": ("hard", "constant"),
    "categorical": ("hard", "rewards"),
    "loo": ("rewards",),
    "centred": ("rewards",),
    "ranking": ("hard",),
    "noise_contrastive": ("hard", "rewards"),
}
#: targets that each distance can be taken to, with the reason for the limit
DISTANCE_TARGETS: dict[str, tuple[tuple[str, ...], str]] = {
    "ce": (
        ("hard", "smoothed", "unbiased", "constant", "rewards"),
        "cross-entropy takes any label",
    ),
    "fwd": (
        ("smoothed", "constant", "rewards"),
        "KL(policy || target) is finite only if the target gives both outcomes a probability in "
        "(0, 1)",
    ),
    "sq": (("constant", "rewards"), "a square needs a finite number to aim at"),
    "hinge": (("constant",), "a hinge needs the margin from which on the loss is zero"),
    "discopop": (("hard",), "the discovered loss knows winner and loser only"),
    "sigmoid": (("hard",), "the sigmoid utility knows desirable and undesirable only"),
}
#: scores whose differences within a prompt do not see log Z(x)
ADDITIVE_SCORES = ("sum", "ld")
#: structures that see only differences of scores within a prompt
DIFFERENCES = ("pair", "categorical", "loo", "centred", "ranking")
#: what each hyper-parameter belongs to: (slot, values of that slot)
OWNERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "eta": ("target", ("rewards",)),
    "epsilon": ("target", ("smoothed", "unbiased")),
    "constant": ("target", ("constant",)),
    "length_weight": ("shift", ("length",)),
    "gap_weight": ("shift", ("log_reward_gap",)),
    "extra_weights": ("shift", ("extra_rewards",)),
    "ld_alpha": ("score", ("ld",)),
    "f_alpha": ("score", ("alpha_divergence",)),
    "shape_alpha": ("score", ("alpha_shaped",)),
    "tau": ("distance", ("discopop",)),
    "aggregate_beta": ("aggregate", ("log_mean_exp",)),
    "pairing": ("structure", ("pair", "pointwise")),
    "baseline": ("structure", ("pointwise",)),
    "desirable_weight": ("structure", ("pointwise",)),
    "undesirable_weight": ("structure", ("pointwise",)),
}


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
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        for name, (slot, values) in OWNERS.items():
            given, used = getattr(self, name) is not None, getattr(self, slot) in values
            if used and not given:
                yield f"{slot}={getattr(self, slot)} needs {name}, which is null"
            if given and not used:
                yield (
                    f"{name}={getattr(self, name)} has no meaning with {slot}="
                    f"{getattr(self, slot)} (it belongs to {slot}={' or '.join(values)}); "
                    f"set {name}=null"
                )
        yield from self._slot_problems()
        yield from self._parameter_problems()
        yield from self._log_z_problems()

    def _slot_problems(self) -> Iterator[str]:
        allowed = DISTANCES[self.structure]
        if self.distance not in allowed:
            yield (
                f"distance={self.distance} cannot measure structure={self.structure}; "
                f"it takes {', '.join(allowed)}"
            )
        targets = STRUCTURE_TARGETS[self.structure]
        if self.target not in targets:
            yield (
                f"target={self.target} has no meaning with structure={self.structure}; "
                f"it takes {', '.join(targets)}"
            )
        reachable, reason = DISTANCE_TARGETS[self.distance]
        if self.target not in reachable:
            yield (
                f"distance={self.distance} cannot aim at target={self.target}: {reason} "
                f"(possible: {', '.join(reachable)})"
            )
        if (self.ties == "keep") != (self.target == "rewards"):
            yield (
                "ties=keep belongs to target=rewards, where an equal reward is a target like any "
                f"other (got ties={self.ties} with target={self.target})"
            )
        if self.ties == "half" and self.structure == "ranking":
            yield "structure=ranking compares each response with worse ones only; use ties=drop"
        if self.ties == "half" and self.shift == "log_reward_gap":
            yield "shift=log_reward_gap is infinite at a tie; use ties=drop"
        if self.shift != "none" and self.structure != "pair":
            yield (
                f"shift={self.shift} moves the margin of a pair; "
                f"structure={self.structure} has none"
            )
        if self.units == "log_ratio" and self.distance != "sq":
            yield "units=log_ratio divides a square by beta²; set distance=sq or units=reward"
        if self.subtract_entropy and (self.distance != "ce" or self.target == "unbiased"):
            yield (
                "subtract_entropy=true needs distance=ce and a label that is a probability "
                f"(got distance={self.distance}, target={self.target})"
            )
        if self.reference == "none" and self.score in ("forward_kl", "js", "alpha_divergence"):
            yield f"score={self.score} is a function of the density ratio; set reference=fixed"
        if self.reference == "fixed" and self.score in ("log_odds", "alpha_shaped"):
            yield f"score={self.score} is a function of the policy alone; set reference=none"

    def _parameter_problems(self) -> Iterator[str]:
        if self.distance == "fwd" and self.epsilon == 0:
            yield "epsilon=0 makes KL(policy || target) infinite; take 0 < epsilon < 0.5"
        gammas = (self.gamma is not None) + (self.gamma_beta_ratio is not None)
        if gammas != (self.shift == "gamma"):
            yield (
                "shift=gamma takes exactly one of gamma and gamma_beta_ratio, other shifts none "
                f"(got shift={self.shift}, gamma={self.gamma}, "
                f"gamma_beta_ratio={self.gamma_beta_ratio})"
            )
        weights = self.extra_weights
        if weights is not None and (
            not weights or min(weights) < 0 or not 0 < 1 - sum(weights) <= 1
        ):
            yield (
                "extra_weights must be non-negative and sum to less than 1; the rest is the "
                f"weight of the preference itself (got {weights})"
            )

    def _log_z_problems(self) -> Iterator[str]:
        if self.structure in DIFFERENCES and self.score in ADDITIVE_SCORES:
            actual, why = "cancels", "only differences of scores within a prompt enter"
        elif self.baseline not in (None, "none"):
            actual, why = "baseline", f"baseline={self.baseline} stands in for it"
        else:
            actual = "ignored"
            why = f"structure={self.structure} with score={self.score} leaves it in the loss"
        if self.log_z != actual:
            yield (
                f"log_z={self.log_z} is not what these slots do with beta·log Z(x): {why}; "
                f"declare log_z={actual} if that is meant"
            )

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
        return self.baseline == "z0" or self.aggregate != "mean"


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
