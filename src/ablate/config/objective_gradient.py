"""The slots of a policy gradient: whose each parameter is, and which of them go together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ablate.config.objective import ObjectiveConfig

STRUCTURE = "policy_gradient"
#: where the KL is a term of the loss, per token
IN_LOSS = ("in_loss", "in_loss_weighted")
_SLOTS = ("advantage", "advantage_scale", "ratio", "clip", "kl", "over_tokens", "group_filter")
#: what each slot and parameter belongs to: (slot, values of that slot)
OWNERS: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(_SLOTS, ("structure", (STRUCTURE,))),
    "scale_epsilon": ("advantage_scale", ("group_std", "batch_std", "batch_whiten")),
    "clip_low": ("clip", ("ppo",)),
    "clip_high": ("clip", ("ppo", "cispo")),
    "constant_length": ("over_tokens", ("constant",)),
}


def needs_tokens(config: ObjectiveConfig) -> bool:
    """Whether the per-token log-probs enter, or only their sum."""
    return config.structure == STRUCTURE and (
        config.ratio == "token" or (config.kl in ("in_return", *IN_LOSS) and config.beta > 0)
    )


def needs_reference(config: ObjectiveConfig) -> bool:
    """Whether there is a KL to the reference."""
    return config.kl not in (None, "none") and config.beta > 0


def needs_lengths(config: ObjectiveConfig) -> bool:
    """Whether tokens are counted."""
    return config.structure == STRUCTURE and (
        needs_tokens(config)
        or config.ratio == "sequence_mean"
        or config.over_tokens != "mean"
        or config.advantage_scale == "batch_whiten"
    )


def gradient_problems(config: ObjectiveConfig) -> Iterator[str]:
    """Why a combination has no meaning; nothing if it has one."""
    if config.structure != STRUCTURE:
        if config.beta == 0:
            yield (
                "beta=0: should be greater than 0; only structure=policy_gradient can do without "
                "the KL that objective.beta weighs"
            )
        return
    if config.reference != "fixed" or config.score != "sum":
        yield (
            "structure=policy_gradient reads log-probs itself: leave reference=fixed and score=sum "
            f"(got reference={config.reference}, score={config.score}); beta=0 does without a "
            "reference"
        )
    if config.kl == "none" and config.beta != 0:
        yield f"kl=none leaves beta={config.beta:g} without meaning; set beta=0"
    if config.kl == "in_return" and config.ratio != "token":
        yield f"kl=in_return gives each token its own; set ratio=token (got {config.ratio})"
    if config.clip == "cispo" and config.ratio != "token":
        yield f"clip=cispo caps the weight of each token; set ratio=token (got {config.ratio})"
    if config.aggregate == "log_mean_exp":
        yield "aggregate=log_mean_exp weighs prompts by their loss, which an advantage has not"
