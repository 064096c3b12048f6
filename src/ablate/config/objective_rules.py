"""Which slots of an objective go together, and the reason where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ablate.config.objective_gradient import OWNERS as GRADIENT_OWNERS
from ablate.config.objective_gradient import gradient_problems
from ablate.config.objective_log_z import log_z_problems

if TYPE_CHECKING:
    from ablate.config.objective import ObjectiveConfig

#: distances that each structure can measure with
DISTANCES: dict[str, tuple[str, ...]] = {
    "pair": ("ce", "fwd", "sq", "hinge", "sigmoid", "discopop"),
    "pointwise": ("ce", "sq", "sigmoid"),
    "each": ("sq",),
    "categorical": ("ce", "fwd"),
    "loo": ("sq",),
    "centred": ("sq",),
    "ranking": ("ce",),
    "noise_contrastive": ("ce",),
    "one_vs_rest": ("ce",),
    "positives": ("ce",),
    "likelihood": ("ce",),
    "policy_gradient": ("ce",),
}
#: targets that each structure can aim at
STRUCTURE_TARGETS: dict[str, tuple[str, ...]] = {
    "pair": (
        "hard",
        "smoothed",
        "unbiased",
        "constant",
        "rewards",
        "win_rate",
        "win_logit",
        "win_prob",
    ),
    "pointwise": ("hard", "constant", "win_rate", "win_logit"),
    "each": ("rewards", "win_rate", "win_logit"),
    "categorical": ("hard", "rewards", "win_rate", "win_logit"),
    "loo": ("rewards", "win_rate", "win_logit"),
    "centred": ("rewards", "win_rate", "win_logit"),
    "ranking": ("hard", "rewards"),
    "noise_contrastive": ("hard", "rewards"),
    "one_vs_rest": ("rewards",),
    "positives": ("hard",),
    "likelihood": ("hard", "rewards"),
    "policy_gradient": ("rewards", "win_rate", "win_logit"),
}
#: targets that each distance can be taken to, with the reason for the limit
DISTANCE_TARGETS: dict[str, tuple[tuple[str, ...], str]] = {
    "ce": (
        STRUCTURE_TARGETS["pair"],
        "cross-entropy takes any label",
    ),
    "fwd": (
        ("smoothed", "constant", "rewards", "win_rate", "win_logit", "win_prob"),
        "KL(policy || target) is finite only if the target gives both outcomes a probability in "
        "(0, 1)",
    ),
    "sq": (
        ("constant", "rewards", "win_rate", "win_logit"),
        "a square needs a finite number to aim at",
    ),
    "hinge": (("constant",), "a hinge needs the margin from which on the loss is zero"),
    "discopop": (("hard",), "the discovered loss knows winner and loser only"),
    "sigmoid": (("hard",), "the sigmoid utility knows desirable and undesirable only"),
}
#: targets that are a number for each response
VALUES = ("rewards", "win_rate", "win_logit")
#: auxiliary terms of texts that are no responses of the group
SIDE_AUX = ("nll_gold", "nll_gold_mean", "rationale", "logp_sample")
#: what each hyper-parameter belongs to: (slot, values of that slot)
OWNERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "eta": ("target", VALUES),
    "epsilon": ("target", ("smoothed", "unbiased")),
    "constant": ("target", ("constant",)),
    "length_weight": ("shift", ("length",)),
    "gap_weight": ("shift", ("log_reward_gap",)),
    "extra_weights": ("shift", ("extra_rewards",)),
    "reward_weights": ("rewards_from", ("weighted",)),
    "mixture_weight": ("reference", ("mixture",)),
    "kl_weight": ("shift", ("token_kl",)),
    "kl_stop": ("shift", ("token_kl",)),
    "fall_penalty": ("shift", ("falling_best",)),
    "length_lambda": ("structure", ("positives",)),
    "gap_sensitivity": ("adapt", ("gap",)),
    "gap_momentum": ("adapt", ("gap",)),
    "gap_keep": ("adapt", ("gap",)),
    "ld_alpha": ("score", ("ld",)),
    "f_alpha": ("score", ("alpha_divergence",)),
    "shape_alpha": ("score", ("alpha_shaped",)),
    "aggregate_beta": ("aggregate", ("log_mean_exp",)),
    "pairing": ("structure", ("pair", "pointwise")),
    "baseline": ("structure", ("pointwise",)),
    "desirable_weight": ("structure", ("pointwise",)),
    "undesirable_weight": ("structure", ("pointwise",)),
    **GRADIENT_OWNERS,
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
    yield from _extension_problems(config)
    yield from _parameter_problems(config)
    yield from gradient_problems(config)
    yield from log_z_problems(config)
    yield from _mix_problems(config)


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
    if (config.ties == "keep") != (config.target in VALUES):
        yield (
            f"ties=keep belongs to target={' or '.join(VALUES)}, where an equal value is a target "
            f"like any other (got ties={config.ties} with target={config.target})"
        )
    if config.ties == "half" and config.target == "win_prob":
        yield "target=win_prob says of each pair how even it is; use ties=drop"
    if config.ties == "half" and config.structure == "ranking":
        yield "structure=ranking compares each response with worse ones only; use ties=drop"
    if config.ties == "half" and config.shift == "log_reward_gap":
        yield "shift=log_reward_gap is infinite at a tie; use ties=drop"
    if config.shift == "reference_floor" and (config.reference, config.score) != ("fixed", "sum"):
        yield (
            "shift=reference_floor cuts the reference's own gap at 0; it needs reference=fixed and "
            f"score=sum (got reference={config.reference}, score={config.score})"
        )
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
    if config.reference != "none" and config.score in ("log_odds", "alpha_shaped"):
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


def _extension_problems(config: ObjectiveConfig) -> Iterator[str]:
    tau_used = config.distance == "discopop" or config.structure == "positives"
    if tau_used and config.tau is None:
        yield "distance=discopop and structure=positives need tau, which is null"
    if config.tau is not None and not tau_used:
        yield (
            f"tau={config.tau} has no meaning with distance={config.distance} (it belongs to "
            "distance=discopop or structure=positives); set tau=null"
        )
    if (config.rationale_scale is not None) != ("rationale" in config.aux):
        yield "rationale_scale and aux.rationale come together: give both or none"
    if config.weight != "none" and (config.structure != "pair" or config.batch_sort != "none"):
        yield (
            f"weight={config.weight} weighs pairs, which structure={config.structure} with "
            f"batch_sort={config.batch_sort} has not"
        )
    if config.weight == "lambda_rank" and config.ties == "half":
        yield "weight=lambda_rank gives a tie no weight; use ties=drop"
    if config.adapt != "none" and (
        config.structure != "pair"
        or config.score != "sum"
        or config.reference == "none"
        or config.pairing not in ("best_vs_random", "best_vs_worst")
        or config.ties != "drop"
        or config.batch_sort != "none"
    ):
        yield (
            f"adapt={config.adapt} follows log-ratio gaps: it needs structure=pair with one pair "
            "per prompt, score=sum, a reference, ties=drop and batch_sort=none"
        )
    if config.across_prompts and (config.structure != "pair" or config.batch_sort != "none"):
        yield "across_prompts=true compares two responses: it needs structure=pair, batch_sort=none"
    if config.score == "masked" and config.reference != "fixed":
        yield f"score=masked weighs log-ratios; set reference=fixed (got {config.reference})"
    if config.score == "ld" and config.reference == "mixture":
        yield "score=ld has no per-token log-probs of the previous policy; set reference=fixed"
    if config.over_pairs == "sum" and config.structure != "pair":
        yield f"over_pairs=sum adds up pairs; structure={config.structure} has none"
    summed = config.structure == "likelihood" or config.over_tokens == "sum"
    if config.aggregate == "token_mean" and (not summed or config.score != "sum"):
        yield (
            "aggregate=token_mean divides summed log-probs by all their tokens: it needs "
            "structure=likelihood or over_tokens=sum, and score=sum "
            f"(got {config.structure}, {config.over_tokens}, {config.score})"
        )
    if config.target == "rewards" and config.structure == "one_vs_rest" and config.eta != 1:
        yield f"structure=one_vs_rest takes rewards as they are; set eta=1 (got {config.eta})"
    weights = config.reward_weights
    if weights is not None and (not weights or not any(weights)):
        yield (
            "reward_weights holds the weight of the reward and of each further one; one of them "
            f"must differ from 0 (got {weights})"
        )


def _mix_problems(config: ObjectiveConfig) -> Iterator[str]:
    if set(config.mix) != set(config.mix_weights):
        yield (
            f"mix and mix_weights must name the same objectives (got {sorted(config.mix)} and "
            f"{sorted(config.mix_weights)})"
        )
    for label, weight in config.mix_weights.items():
        if not 0 < weight < float("inf"):
            yield f"mix_weights.{label}={weight} must be positive; leave the objective out instead"
    for label, part in config.mix.items():
        if part.mix:
            yield f"mix.{label} is a mixture itself; name its parts in mix instead"
    if config.batch_coupled and config.needs.token_kl:
        yield (
            "an objective that couples the prompts of a batch trains by one scale per token, so "
            "it cannot weigh what the vocabulary says of it (score=masked, shift=token_kl)"
        )
    if config.batch_coupled and config.aux.keys() & SIDE_AUX:
        yield (
            "an objective that couples the prompts of a batch trains by one scale per response, "
            f"so it cannot add terms of other texts (aux: {', '.join(SIDE_AUX)})"
        )
    if config.unbounded_below and config.loss_floor is None:
        yield (
            "the loss has no lower bound, so loss_floor must be a number: a loss under it ends "
            "the run as diverged"
        )
    # epsilon=0 is the bounded end of an axis on which the floor may stay as it is
    falls = config.unbounded_below or any(part.target == "unbiased" for part in config.parts)
    if config.loss_floor is not None and not falls:
        yield (
            f"loss_floor={config.loss_floor} has no meaning for a loss that is bounded below; "
            "set loss_floor=null"
        )
