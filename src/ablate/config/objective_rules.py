"""Which slots of an objective go together, and the reason where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ablate.config.objective import ObjectiveConfig

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


def slot_problems(config: ObjectiveConfig) -> Iterator[str]:
    """Every reason why a combination of slots has no meaning; nothing if it has one."""
    for name, (slot, values) in OWNERS.items():
        given, used = getattr(config, name) is not None, getattr(config, slot) in values
        if used and not given:
            yield f"{slot}={getattr(config, slot)} needs {name}, which is null"
        if given and not used:
            yield (
                f"{name}={getattr(config, name)} has no meaning with {slot}="
                f"{getattr(config, slot)} (it belongs to {slot}={' or '.join(values)}); "
                f"set {name}=null"
            )
    yield from _slot_problems(config)
    yield from _parameter_problems(config)
    yield from _log_z_problems(config)


def _slot_problems(config: ObjectiveConfig) -> Iterator[str]:
    allowed = DISTANCES[config.structure]
    if config.distance not in allowed:
        yield (
            f"distance={config.distance} cannot measure structure={config.structure}; "
            f"it takes {', '.join(allowed)}"
        )
    targets = STRUCTURE_TARGETS[config.structure]
    if config.target not in targets:
        yield (
            f"target={config.target} has no meaning with structure={config.structure}; "
            f"it takes {', '.join(targets)}"
        )
    reachable, reason = DISTANCE_TARGETS[config.distance]
    if config.target not in reachable:
        yield (
            f"distance={config.distance} cannot aim at target={config.target}: {reason} "
            f"(possible: {', '.join(reachable)})"
        )
    if (config.ties == "keep") != (config.target == "rewards"):
        yield (
            "ties=keep belongs to target=rewards, where an equal reward is a target like any "
            f"other (got ties={config.ties} with target={config.target})"
        )
    if config.ties == "half" and config.structure == "ranking":
        yield "structure=ranking compares each response with worse ones only; use ties=drop"
    if config.ties == "half" and config.shift == "log_reward_gap":
        yield "shift=log_reward_gap is infinite at a tie; use ties=drop"
    if config.shift != "none" and config.structure != "pair":
        yield (
            f"shift={config.shift} moves the margin of a pair; "
            f"structure={config.structure} has none"
        )
    if config.units == "log_ratio" and config.distance != "sq":
        yield "units=log_ratio divides a square by beta²; set distance=sq or units=reward"
    if config.subtract_entropy and (config.distance != "ce" or config.target == "unbiased"):
        yield (
            "subtract_entropy=true needs distance=ce and a label that is a probability "
            f"(got distance={config.distance}, target={config.target})"
        )
    if config.reference == "none" and config.score in ("forward_kl", "js", "alpha_divergence"):
        yield f"score={config.score} is a function of the density ratio; set reference=fixed"
    if config.reference == "fixed" and config.score in ("log_odds", "alpha_shaped"):
        yield f"score={config.score} is a function of the policy alone; set reference=none"

    if config.batch_sort != "none":
        yield from _sort_problems(config)


def _sort_problems(config: ObjectiveConfig) -> Iterator[str]:
    if config.pairing not in ("best_vs_random", "best_vs_worst") or config.structure != "pair":
        yield (
            f"batch_sort={config.batch_sort} needs structure=pair with one pair per prompt "
            f"(got structure={config.structure}, pairing={config.pairing})"
        )
    if config.ties != "drop" or config.shift != "none":
        yield (
            f"batch_sort={config.batch_sort} leaves no pair to shift or to halve; use ties=drop "
            f"and shift=none (got ties={config.ties}, shift={config.shift})"
        )
    if config.batch_sort == "gaps" and (config.score != "sum" or config.reference != "fixed"):
        yield (
            "batch_sort=gaps sorts the sums of policy and reference apart; use score=sum and "
            f"reference=fixed (got score={config.score}, reference={config.reference})"
        )


def _parameter_problems(config: ObjectiveConfig) -> Iterator[str]:
    if config.distance == "fwd" and config.epsilon == 0:
        yield "epsilon=0 makes KL(policy || target) infinite; take 0 < epsilon < 0.5"
    gammas = (config.gamma is not None) + (config.gamma_beta_ratio is not None)
    if gammas != (config.shift == "gamma"):
        yield (
            "shift=gamma takes exactly one of gamma and gamma_beta_ratio, other shifts none "
            f"(got shift={config.shift}, gamma={config.gamma}, "
            f"gamma_beta_ratio={config.gamma_beta_ratio})"
        )
    weights = config.extra_weights
    if weights is not None and (not weights or min(weights) < 0 or not 0 < 1 - sum(weights) <= 1):
        yield (
            "extra_weights must be non-negative and sum to less than 1; the rest is the "
            f"weight of the preference itself (got {weights})"
        )


def _log_z_problems(config: ObjectiveConfig) -> Iterator[str]:
    within = config.structure in DIFFERENCES and config.batch_sort != "scores"
    if within and config.score in ADDITIVE_SCORES:
        actual, why = "cancels", "only differences of scores within a prompt enter"
    elif config.baseline not in (None, "none"):
        actual, why = "baseline", f"baseline={config.baseline} stands in for it"
    else:
        actual = "ignored"
        why = (
            f"structure={config.structure} with score={config.score} and batch_sort="
            f"{config.batch_sort} leaves it in the loss"
        )
    if config.log_z != actual:
        yield (
            f"log_z={config.log_z} is not what these slots do with beta·log Z(x): {why}; "
            f"declare log_z={actual} if that is meant"
        )
