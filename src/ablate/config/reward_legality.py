"""Legality of reward sources: with the objective, with the dataset, and within themselves."""

from collections.abc import Iterator

from ablate.config.dataset import GivenConfig
from ablate.config.objective import ObjectiveConfig
from ablate.config.reward import (
    CompositeReward,
    EnsembleReward,
    ExplicitReward,
    GoldReward,
    ImplicitReward,
    LabelsReward,
    PairwiseReward,
    PreferenceReward,
    RewardConfig,
    VectorReward,
    VerifierReward,
    gives,
    parts,
    training_of,
    walk,
)
from ablate.config.run import RunConfig

#: needs that labelled pairs do not meet, and how a person calls them
_NOT_OF_PAIRS = {
    "scores": "scores",
    "extra_rewards": "further rewards",
    "win_probs": "win probabilities",
    "previous": "the policy of the round before",
    "gold": "gold responses",
    "rationale": "rationales",
    "token_weights": "token weights",
    "joint": "joint pairs",
    "reference_sample": "a sample of the reference policy",
}


def reward_reasons(run: RunConfig) -> Iterator[str]:
    """Why a run's reward cannot work, one sentence for each reason."""
    yield from _for_objective(run)
    yield from _for_selection(run)
    for source in walk(run.reward):
        yield from _made_of(source)
        yield from _alone(source, run)


def _for_objective(run: RunConfig) -> Iterator[str]:
    objective, reward, given = run.objective, run.reward, gives(run.reward)
    needs = objective.needs
    if needs.scores and not given.scores:
        yield (
            f"objective={objective.name} needs scores, but reward={reward.name} gives only an "
            "order. Use reward=gold, reward=explicit or reward=implicit"
        )
    if needs.win_probs and not given.win_probs:
        yield (
            f"objective={objective.name} needs the probability that one response beats another, "
            f"which reward={reward.name} does not give. Use reward=pairwise, reward=pairwise_bt "
            "or reward=gpm"
        )
    if not needs.extra_rewards:
        return
    if not given.extra_rewards:
        yield (
            f"objective={objective.name} needs further rewards beside the one that training sees, "
            f"which reward={reward.name} does not give. Use reward=vector or reward=ensemble"
        )
        return
    for slots in (objective, *objective.mix.values()):
        yield from _numbers(slots, reward, given.extra_rewards)


def _numbers(slots: ObjectiveConfig, reward: RewardConfig, extra: int) -> Iterator[str]:
    for name, first, what in (
        ("extra_weights", 0, "further rewards"),
        ("reward_weights", 1, "rewards, the first included"),
    ):
        weights = getattr(slots, name)
        if weights is not None and len(weights) != extra + first:
            yield (
                f"objective.{name} of {slots.name} holds {len(weights)} weights, but "
                f"reward={reward.name} gives {extra + first} {what}"
            )
    averaged = slots.rewards_from == "mean"
    if averaged and isinstance(reward, EnsembleReward) and reward.combine != "mean":
        yield (
            f"objective={slots.name} averages the members of reward={reward.name} with their "
            f"combination, which must be their mean too: use reward.combine=mean"
        )


def says_nothing_alone(reward: RewardConfig, given: bool) -> str | None:
    """Why a source has no score for an answer that stands alone, or None where it has."""
    if isinstance(reward, LabelsReward):
        return "gives only an order"
    if isinstance(reward, PairwiseReward | PreferenceReward):
        return "compares the responses of a prompt"
    if isinstance(reward, GoldReward) and reward.scores_from == "data" and given:
        return "knows the scores that came with the data only"
    for part in parts(reward).values():
        reason = says_nothing_alone(part.source, given)
        if reason is not None:
            return reason
    return None


def _for_selection(run: RunConfig) -> Iterator[str]:
    if run.training.select_checkpoint != "valid" or run.training.select_by == "judge":
        return
    reason = says_nothing_alone(run.reward, isinstance(run.dataset, GivenConfig))
    if reason is not None:
        yield (
            f"training.select_by=training_reward needs a reward of new answers, but "
            f"reward={run.reward.name} {reason}. Use training.select_by=judge"
        )


def _made_of(reward: RewardConfig) -> Iterator[str]:
    """Sources that are made of others: which others, and how many."""
    inner = {name: part.source for name, part in parts(reward).items()}
    if isinstance(reward, VectorReward):
        # the first may be an order alone: it makes the preference
        inner.pop(reward.order[0])
    if isinstance(reward, PairwiseReward) and reward.rule == "sign":
        inner = {}
    for name, source in inner.items():
        if isinstance(source, LabelsReward | PairwiseReward | PreferenceReward | VectorReward):
            yield (
                f"reward={reward.name} combines scores, but its part '{name}' is "
                f"{source.name}, which gives no single score of a response. Use gold, explicit, "
                "implicit, verifier, length, format, ensemble or composite"
            )
    if isinstance(reward, EnsembleReward) and len(inner) < 2:
        yield f"reward={reward.name} has one member: raise reward.seeds, or name a second source"
    if isinstance(reward, CompositeReward) and not inner:
        yield f"reward={reward.name} has no terms"


def _alone(reward: RewardConfig, run: RunConfig) -> Iterator[str]:
    training, dataset = training_of(reward), run.dataset
    local = isinstance(dataset, GivenConfig)
    if training is not None and training.prompts != "id" and local:
        yield (
            f"the prompts={training.prompts} of a reward's training are those of an embedded "
            f"world; dataset={dataset.name} has labels of its split 'reward' only: use id"
        )
    if isinstance(reward, ExplicitReward) and reward.path is None and reward.output is not None:
        yield (
            f"reward.output={reward.output} names an output of a classifier from reward.path; one "
            "that is trained here has a single output"
        )
    if isinstance(reward, ImplicitReward):
        yield from _of_pairs(reward.training.objective)
    if isinstance(reward, VerifierReward):
        if reward.pattern is not None and not local:
            yield (
                f"a verifier's pattern is compared with the column `reference` of a file; "
                f"dataset={dataset.name} has a judge of its own: use reward.pattern=null"
            )
        if reward.pattern is None and local:
            yield (
                f"reward=verifier on dataset={dataset.name} needs reward.pattern: a regular "
                "expression whose group finds the answer, compared with the column `reference`"
            )
        world = None if isinstance(dataset, GivenConfig) else dataset.world
        if reward.pattern is None and run.judge.kind == "world" and world == "lists":
            yield (
                f"a verifier says right or wrong, but the judge of dataset={dataset.name} grades. "
                "Use dataset=sums, or reward=gold"
            )


def _of_pairs(objective: ObjectiveConfig) -> Iterator[str]:
    lacking = [word for need, word in _NOT_OF_PAIRS.items() if getattr(objective.needs, need)]
    if lacking:
        yield (
            f"reward.training.objective={objective.name} needs {', '.join(lacking)}, but an "
            "implicit reward is trained on labelled pairs, which give only an order. Use dpo, ipo, "
            "simpo, kto or another objective of order"
        )
