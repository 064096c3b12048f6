"""What an objective must be given, derived from its slots."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ablate.config.objective_gradient import (
    STRUCTURE,
    needs_lengths,
    needs_reference,
    needs_tokens,
)

if TYPE_CHECKING:
    from ablate.config.objective import ObjectiveConfig


@dataclass(frozen=True)
class Needs:
    """What an objective must be given; the legality check compares it with what there will be."""

    #: log-probs under the reference policy
    reference: bool
    #: rewards whose differences mean something (order alone is not enough)
    scores: bool
    #: which response is better (rewards, ranks or win probabilities)
    order: bool
    #: completion lengths in tokens
    lengths: bool
    #: per-token log-probs
    tokens: bool
    #: rewards beside the one that made the preference
    extra_rewards: bool
    #: uses log-probs of mismatched pairs where they are given
    mismatched: bool
    #: the probability that one response beats another, for every two of a prompt
    win_probs: bool
    #: log-probs under the policy of the round before
    previous: bool
    #: KL(π_ref ‖ π) at every token, over the whole vocabulary
    token_kl: bool
    #: weights of the tokens
    token_weights: bool
    #: log Σ_v π(v)² of every token, summed over the response
    log_sum_sq: bool
    #: log-probs of a gold response to the prompt
    gold: bool
    #: uses per-token log-probs under the policy that drew the responses, unless they are fresh
    behaviour: bool
    #: log-probs of a rationale of the preference
    rationale: bool
    #: log-probs of one more response drawn from the reference policy
    reference_sample: bool
    #: responses of a group that answer prompts of their own
    joint: bool
    #: present responses per prompt without which nothing can be compared
    min_responses: int
    #: the loss of a prompt depends on the other prompts of the global batch
    batch: bool

    def joined(self, other: Needs) -> Needs:
        """What both together need."""
        both = {
            field.name: getattr(self, field.name) or getattr(other, field.name)
            for field in fields(self)
        }
        both["min_responses"] = max(self.min_responses, other.min_responses)
        return Needs(**both)


def slot_needs(config: ObjectiveConfig) -> Needs:
    """The needs of an objective's own slots, without those mixed in."""
    per_token = ("mean", "log_odds", "alpha_shaped")
    from_rewards = ("rewards", "win_rate", "win_logit")
    aux = set(config.aux)
    return Needs(
        reference=needs_reference(config)
        if config.structure == STRUCTURE
        else config.reference != "none" or config.adapt == "gap",
        scores=config.target == "rewards"
        or config.shift == "log_reward_gap"
        or config.weight == "lambda_rank"
        or config.structure in ("one_vs_rest", "positives")
        or config.rewards_from != "group",
        order=config.target not in from_rewards
        or bool(aux & {"nll_best", "nll_best_mean", "sigmoid_best"}),
        lengths=config.score in per_token
        or config.shift == "length"
        or config.weight == "policy"
        or config.structure == "positives"
        or config.aggregate == "token_mean"
        or needs_lengths(config)
        or "nll_best_mean" in aux,
        tokens=config.score in ("ld", "masked") or needs_tokens(config),
        extra_rewards=config.shift == "extra_rewards" or config.rewards_from != "group",
        mismatched=config.baseline == "z0",
        win_probs=config.target in ("win_rate", "win_logit", "win_prob"),
        previous=config.reference == "mixture",
        token_kl=config.shift == "token_kl" or config.score == "masked",
        token_weights=config.score == "masked",
        log_sum_sq=config.weight == "policy",
        gold=bool(aux & {"nll_gold", "nll_gold_mean"}),
        behaviour=config.structure == STRUCTURE,
        rationale="rationale" in aux,
        reference_sample="logp_sample" in aux,
        joint=config.across_prompts,
        min_responses=1 if config.structure == "likelihood" or config.advantage == "reward" else 2,
        batch=config.batch_coupled,
    )
