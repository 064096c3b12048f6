"""What a combination of slots does with the per-prompt constant β log Z(x)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ablate.config.objective import ObjectiveConfig

#: scores whose differences within a prompt do not see log Z(x)
ADDITIVE_SCORES = ("sum", "ld")
#: structures that see only differences of scores within a prompt
DIFFERENCES = (
    "pair",
    "categorical",
    "loo",
    "centred",
    "ranking",
    "one_vs_rest",
    "positives",
)


def log_z_problems(config: ObjectiveConfig) -> Iterator[str]:
    """Why the level's `log_z` is not what its slots do; nothing if it is. Auxiliary terms apart."""
    actual, why = _treatment(config)
    if config.log_z != actual:
        yield (
            f"log_z={config.log_z} is not what these slots do with beta·log Z(x): {why}; "
            f"declare log_z={actual} if that is meant"
        )


def _treatment(config: ObjectiveConfig) -> tuple[str, str]:
    within = config.structure in DIFFERENCES and config.batch_sort != "scores"
    if config.structure == "policy_gradient":
        return _of_gradient(config)
    if config.across_prompts:
        return "ignored", "responses to different prompts are compared, each with its own"
    if config.shift == "falling_best":
        return "ignored", "shift=falling_best looks at the better response alone"
    if config.structure == "ranking" and config.target == "rewards":
        return "ignored", "each response of the ranking has a temperature of its own"
    if within and config.score in ADDITIVE_SCORES:
        return "cancels", "only differences of scores within a prompt enter"
    if config.baseline not in (None, "none"):
        return "baseline", f"baseline={config.baseline} stands in for it"
    return "ignored", (
        f"structure={config.structure} with score={config.score} and batch_sort="
        f"{config.batch_sort} leaves it in the loss"
    )


def _of_gradient(config: ObjectiveConfig) -> tuple[str, str]:
    """The KL in the reward is centred with it; elsewhere log-ratios stand as they are."""
    centred = config.advantage in ("loo", "group_mean") and config.advantage_scale != "batch_std"
    if config.kl == "in_reward" and centred:
        return "cancels", "the baseline of the prompt takes it out of reward less beta·log-ratio"
    return "ignored", "nothing within the prompt takes it out"
