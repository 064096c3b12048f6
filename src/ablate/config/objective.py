"""Configuration of an objective: the slots it is composed of, what they need, and their limits."""

from typing import Any, Literal

from pydantic import Field, PositiveFloat, ValidationError, model_validator

from ablate.config.base import Node, explain, neutral
from ablate.config.objective_needs import Needs, slot_needs
from ablate.config.objective_rules import slot_problems
from ablate.errors import ConfigError

#: fields that describe a level and change nothing that is computed
_WORDS = ("arxiv", "title", "formula", "rpo_reading", "checked")
#: what becomes of β log Z(x), the most careful treatment first
_LOG_Z = ("cancels", "baseline", "ignored")


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

    #: 0 only for a policy gradient, which then has no KL
    beta: float = Field(ge=0, allow_inf_nan=False)
    reference: Literal["fixed", "none", "mixture"]
    score: Literal[
        "sum",
        "mean",
        "ld",
        "masked",
        "log_odds",
        "alpha_shaped",
        "forward_kl",
        "js",
        "alpha_divergence",
    ]
    structure: Literal[
        "pair",
        "pointwise",
        "each",
        "categorical",
        "loo",
        "centred",
        "ranking",
        "noise_contrastive",
        "one_vs_rest",
        "positives",
        "likelihood",
        "policy_gradient",
    ]
    pairing: Literal["best_vs_random", "best_vs_worst", "all_pairs", "adjacent"] | None
    #: a prompt's loss is the mean of its comparisons, or their sum
    over_pairs: Literal["mean", "sum"]
    #: responses that are compared may answer different prompts (each with its own log Z)
    across_prompts: bool
    ties: Literal["drop", "half", "keep"]
    target: Literal[
        "hard",
        "smoothed",
        "unbiased",
        "constant",
        "rewards",
        "win_rate",
        "win_logit",
        "win_prob",
    ]
    #: the rewards as given, a weighted sum with the further ones, or the mean of all
    rewards_from: Literal["group", "weighted", "mean"]
    distance: Literal["ce", "fwd", "sq", "hinge", "sigmoid", "discopop"]
    #: subtract the target's entropy from the cross-entropy, which makes it a KL divergence
    subtract_entropy: bool
    #: factor on the preference term (the ½ of a square, for instance)
    coefficient: PositiveFloat = Field(allow_inf_nan=False)
    #: a square in units of β·log-ratio ("reward"), or divided by β² ("log_ratio")
    units: Literal["reward", "log_ratio"]
    shift: Literal[
        "none",
        "gamma",
        "length",
        "log_reward_gap",
        "extra_rewards",
        "token_kl",
        "falling_best",
        "reference_floor",
    ]
    #: factor on each pair, without gradient
    weight: Literal["none", "policy", "lambda_rank"]
    baseline: Literal["none", "z0", "running_mean"] | None
    #: β follows the gap of the batch against its running mean
    adapt: Literal["none", "gap"]
    #: auxiliary terms by kind, each with its coefficient
    aux: dict[
        Literal[
            "nll_best",
            "nll_best_mean",
            "sigmoid_best",
            "nll_gold",
            "nll_gold_mean",
            "rationale",
            "logp_sample",
        ],
        float,
    ]
    #: optimal transport over the global batch: sort the gaps of policy and reference, or the
    #: scores of better and worse responses, before they are compared
    batch_sort: Literal["none", "gaps", "scores"]
    #: how losses of prompts become one: the mean, -b·log mean exp(-loss/b), or the mean per token
    aggregate: Literal["mean", "log_mean_exp", "token_mean"]

    #: policy gradient: what is subtracted from a reward (nothing, the mean of the others, of all)
    advantage: Literal["reward", "loo", "group_mean"] | None = neutral(None)
    #: policy gradient: what the advantage is divided by
    advantage_scale: Literal["none", "group_std", "batch_std", "batch_whiten"] | None = neutral(
        None
    )
    #: policy gradient: π/π_old of each token, of the response, or its mean over tokens in the log
    ratio: Literal["token", "sequence", "sequence_mean"] | None = neutral(None)
    #: policy gradient: how the ratio is kept near 1 (cispo: a cap that stops its gradient only)
    clip: Literal["none", "ppo", "cispo"] | None = neutral(None)
    #: policy gradient: where β·KL(π ‖ π_ref) stands: taken from the reward, from what is still to
    #: come at each token, or added to the loss (k3 per token; `weighted` by the ratio)
    kl: Literal["none", "in_reward", "in_return", "in_loss", "in_loss_weighted"] | None = neutral(
        None
    )
    #: policy gradient: tokens of a response are averaged or added up; averaged over all tokens of
    #: the prompt; or added up and divided by a constant
    over_tokens: Literal["mean", "sum", "group_mean", "constant"] | None = neutral(None)
    #: policy gradient: spread leaves out prompts whose responses all have the same reward
    group_filter: Literal["none", "spread"] | None = neutral(None)
    #: added to the standard deviation
    scale_epsilon: PositiveFloat | None = neutral(None)
    clip_low: float | None = neutral(None, ge=0, le=1)
    clip_high: PositiveFloat | None = neutral(None)
    constant_length: PositiveFloat | None = neutral(None)

    eta: PositiveFloat | None = Field(allow_inf_nan=False)
    epsilon: float | None = Field(ge=0, lt=0.5)
    constant: float | None = Field(allow_inf_nan=False)
    gamma: float | None = Field(allow_inf_nan=False)
    gamma_beta_ratio: float | None = Field(allow_inf_nan=False)
    length_weight: float | None = Field(allow_inf_nan=False)
    gap_weight: float | None = Field(allow_inf_nan=False)
    extra_weights: list[float] | None
    reward_weights: list[float] | None
    mixture_weight: float | None = Field(ge=0, le=1)
    kl_weight: float | None = Field(ge=0, allow_inf_nan=False)
    #: the token KL of the better response is a constant, or carries its gradient
    kl_stop: Literal["better", "none"] | None
    fall_penalty: float | None = Field(ge=0, allow_inf_nan=False)
    ld_alpha: float | None = Field(ge=0, le=1)
    f_alpha: float | None = Field(allow_inf_nan=False)
    shape_alpha: float | None = Field(allow_inf_nan=False)
    tau: PositiveFloat | None
    length_lambda: PositiveFloat | None
    rationale_scale: PositiveFloat | None
    gap_sensitivity: float | None = Field(ge=0, allow_inf_nan=False)
    gap_momentum: float | None = Field(ge=0, lt=1)
    gap_keep: float | None = Field(gt=0, le=1)
    aggregate_beta: PositiveFloat | None
    desirable_weight: PositiveFloat | None
    undesirable_weight: PositiveFloat | None
    #: a loss of the global batch under this number ends the run as diverged
    loss_floor: float | None = Field(allow_inf_nan=False)

    #: further objectives on the same groups, by any name, added with their weights
    mix: dict[str, "ObjectiveConfig"]
    mix_weights: dict[str, float]

    @model_validator(mode="after")
    def _has_a_meaning(self) -> "ObjectiveConfig":
        problems = list(slot_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def identity(self) -> dict[str, Any]:
        """What enters a stage's identity: the slots, not the words that describe them."""
        plain = {key: value for key, value in super().identity().items() if key not in _WORDS}
        plain["mix"] = {
            label: {key: value for key, value in part.identity().items() if key != "name"}
            for label, part in self.mix.items()
        }
        return plain

    @property
    def own(self) -> "ObjectiveConfig":
        """This objective without the ones mixed in."""
        return self.model_copy(update={"mix": {}, "mix_weights": {}}) if self.mix else self

    @property
    def parts(self) -> list["ObjectiveConfig"]:
        """The objective itself, and the ones mixed in."""
        return [self.own, *self.mix.values()]

    @property
    def unbounded_below(self) -> bool:
        """True where the loss has no lower bound, so that training needs a floor alarm."""
        # -log π is bounded below, log π is not; a sigmoid is bounded on both sides
        falling = any(
            value > 0 if kind == "logp_sample" else value < 0
            for kind, value in self.aux.items()
            if kind != "sigmoid_best"
        )
        alone = (
            (self.target == "unbiased" and self.epsilon != 0)
            or self.structure == "positives"
            or falling
        )
        return alone or any(part.unbounded_below for part in self.mix.values())

    @property
    def needs(self) -> Needs:
        """What the objective must be given."""
        needs = slot_needs(self)
        for part in self.mix.values():
            needs = needs.joined(part.needs)
        return needs

    @property
    def what_becomes_of_log_z(self) -> str:
        """`log_z`, or that of the most careless part where objectives are mixed."""
        return max((part.log_z for part in self.parts), key=_LOG_Z.index)

    @property
    def stateful(self) -> bool:
        """True where the loss depends on the batches before."""
        alone = self.baseline == "running_mean" or self.adapt != "none"
        return alone or any(part.stateful for part in self.mix.values())

    @property
    def batch_coupled(self) -> bool:
        """True where a prompt's loss depends on the other prompts of the global batch."""
        alone = (
            self.baseline in ("z0", "running_mean")
            or self.adapt != "none"
            or self.aggregate != "mean"
            or self.batch_sort != "none"
            or self.advantage_scale in ("batch_std", "batch_whiten")
        )
        return alone or any(part.batch_coupled for part in self.mix.values())


def objective_config(values: dict[str, Any]) -> ObjectiveConfig:
    """Check plain values of the `objective` node. Raises `ConfigError` with every problem."""
    try:
        return ObjectiveConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(explain(error).splitlines())
        raise ConfigError(f"Objective '{values.get('name', '?')}': {problems}.") from error


def objective_of_slots(slots: dict[str, Any], name: str) -> ObjectiveConfig:
    """The objective that a stage's parameters describe: slots as `identity` left them, no words."""
    words = {"arxiv": None, "title": name, "formula": "", "rpo_reading": "", "checked": "paper"}
    known = ObjectiveConfig.with_neutral
    mix = {label: known({**words, "name": label, **part}) for label, part in slots["mix"].items()}
    return objective_config(known({**words, **slots, "mix": mix, "name": name}))
