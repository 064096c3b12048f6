"""Legality of what depends on how responses are drawn: importance ratios, shaping by length."""

from collections.abc import Iterator

from ablate.config.dataset import GivenConfig
from ablate.config.run import RunConfig
from ablate.config.selection import RULES
from ablate.config.shaping import ALONG_TRAINING, VERDICTS


def drawn_reasons(run: RunConfig) -> Iterator[str]:
    """Why a run's objective or shaper does not fit its collection, a sentence for each reason."""
    if run.objective.needs.behaviour:
        yield from _behaviour_reasons(run)
    yield from _shaping_reasons(run)


def _behaviour_reasons(run: RunConfig) -> Iterator[str]:
    """A ratio π/π_old needs the policy that drew the responses: the reference, as it is."""
    name = run.objective.name
    collection = run.collection
    if isinstance(run.dataset, GivenConfig) and collection.kind == "offline":
        yield (
            f"objective={name} weighs responses by the policy that drew them, and nobody knows it "
            f"of those that come with dataset={run.dataset.name}. Use collection=online, or an "
            "objective without importance ratios, such as rpo_sqloo"
        )
        return
    if collection.kind == "iterative" and collection.init == "sft":
        yield (
            f"objective={name} weighs responses by the policy that drew them, the last one, but "
            "collection.init=sft starts every round elsewhere. Use collection.init=last"
        )
    yield from _choice_reasons(run)
    drawn = collection.sampling or run.dataset.pool.sampling
    if (drawn.temperature, drawn.top_p, drawn.top_k) != (1.0, 1.0, 0):
        yield (
            f"objective={name} weighs responses by the probability with which they were drawn: "
            f"that is the policy's at temperature 1, top_p 1, top_k 0 only (they are "
            f"{drawn.temperature:g}, {drawn.top_p:g}, {drawn.top_k} here)"
        )


def _choice_reasons(run: RunConfig) -> Iterator[str]:
    """A choice by score makes the chosen responses no draws of any policy."""
    chosen, collection = run.num_responses, run.collection
    drawn = chosen.k
    if collection.refresh_every is not None:
        drawn = collection.num_samples or drawn
    else:
        drawn = run.dataset.pool.num_responses
    if RULES[chosen.select] != "nothing" and drawn > chosen.k:
        fair = " or ".join(rule for rule, reads in RULES.items() if reads == "nothing")
        yield (
            f"objective={run.objective.name} takes responses for draws of a policy, but "
            f"num_responses.select={chosen.select} chooses {chosen.k} of {drawn} by their rewards. "
            f"Use num_responses.select={fair}, or all of them"
        )


def _shaping_reasons(run: RunConfig) -> Iterator[str]:
    """Shapers take verdicts of right or wrong; some need answers drawn while training goes on."""
    shaping, kind = run.shaping, run.reward.kind
    local = isinstance(run.dataset, GivenConfig)
    if shaping.kind == "none":
        return
    if shaping.kind in ALONG_TRAINING and run.collection.refresh_every is None:
        yield (
            f"shaping={shaping.name} {ALONG_TRAINING[shaping.kind]}, with collection="
            f"{run.collection.name}. Use collection=online, or shaping=slpo, grpo_lambda or "
            "truncation"
        )
    if kind not in VERDICTS:
        yield (
            f"shaping={shaping.name} shapes verdicts of right or wrong, and reward="
            f"{run.reward.name} gives none. Use reward=gold with dataset=sums, or shaping=none"
        )
    elif kind == "gold" and not local and not _verdicts(run):
        yield (
            f"shaping={shaping.name} shapes verdicts of right or wrong, but dataset="
            f"{run.dataset.name} with judge={run.judge.name} has graded scores. Use dataset=sums, "
            "or shaping=none"
        )


def _verdicts(run: RunConfig) -> bool:
    """Whether the judge says right or wrong, as that of the world `sums` does."""
    world = None if isinstance(run.dataset, GivenConfig) else run.dataset.world
    return world == "sums" and run.judge.kind == "world"
