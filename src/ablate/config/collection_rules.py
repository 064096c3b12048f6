"""Legality of collection: rounds that have enough prompts, draws that an objective can use."""

from collections.abc import Iterator

from ablate.config.dataset import GivenConfig
from ablate.config.reward import GoldReward, walk
from ablate.config.run import RunConfig


def collection_reasons(run: RunConfig) -> Iterator[str]:
    """Why a run's responses cannot be collected as it asks: one sentence for each reason."""
    collection, objective = run.collection, run.objective
    yield from prompt_reasons(run)
    if objective.needs.previous and not collection.fresh:
        yield (
            f"objective={objective.name} needs log-probs under the policy of the round before. "
            "Use collection=iterative (or online, where that is the policy that drew the responses)"
        )
    if collection.fresh and isinstance(run.dataset, GivenConfig):
        for source in walk(run.reward):
            if isinstance(source, GoldReward) and source.scores_from == "data":
                yield (
                    f"reward={source.name} knows the scores that came with the data only, but "
                    f"collection={collection.name} draws new responses. Use "
                    "reward.scores_from=judge (the judge's own scores), or reward=explicit"
                )
    if collection.refresh_every is not None:
        yield from _online(run)
        return
    for name in ("num_samples", "sampling"):
        if getattr(collection, name) is not None:
            yield (
                f"collection.{name} is for responses drawn while training (collection=online); "
                f"the pool's are dataset.pool.{name.replace('num_samples', 'num_responses')}"
            )
    yield from _pool(run)


def prompt_reasons(run: RunConfig) -> Iterator[str]:
    """Why there are not the prompts for the rounds that a run asks for."""
    collection = run.collection
    if collection.new_prompts[0] != 1:
        yield (
            f"collection.new_prompts begins with {collection.new_prompts[0]}, but no round came "
            "before the first: begin with 1"
        )
    seen = 0.0
    for number in range(1, collection.rounds + 1):
        new = collection.new_share(number) * collection.round_prompts
        if collection.round_prompts - new > seen + 1e-9:
            yield (
                f"round {number} would take {collection.round_prompts - new:.3g} of the train "
                f"prompts from earlier rounds, which saw {seen:.3g} of them. Raise its share of "
                "collection.new_prompts"
            )
        seen += new
    if seen > 1 + 1e-9:
        yield (
            f"{collection.rounds} rounds with new prompts of "
            f"{collection.round_prompts:g} x {collection.new_prompts} need {seen:.3g} times the "
            "train prompts there are. Lower collection.rounds, collection.round_prompts or "
            "collection.new_prompts"
        )


def _online(run: RunConfig) -> Iterator[str]:
    collection, k = run.collection, run.num_responses.k
    if collection.num_samples is not None and collection.num_samples < k:
        yield (
            f"collection.num_samples={collection.num_samples} is less than num_responses={k}: "
            f"K responses are chosen from those drawn"
        )
    if collection.rounds > 1 and collection.init == "sft":
        yield (
            "online rounds that start from SFT (collection.init=sft) would forget the rounds "
            "before. Use collection.init=last, or collection=iterative"
        )
    if run.objective.needs.mismatched and run.training.batch_size < 2:
        yield (
            f"objective={run.objective.name} pairs prompts with other prompts' responses; online "
            "they come from the same batch: use training.batch_size=2 or more"
        )


def _pool(run: RunConfig) -> Iterator[str]:
    """Whether the pool of a prompt is large enough, where it is sampled."""
    objective, k = run.objective, run.num_responses.k
    size = run.dataset.pool.num_responses
    given = isinstance(run.dataset, GivenConfig) and not run.collection.fresh
    if not given and k > size:
        yield (
            f"num_responses is {k}, but the pool holds {size} responses "
            f"per prompt. Use dataset.pool.num_responses={k} or more"
        )
    if not objective.needs.reference_sample:
        return
    if given or k >= size:
        yield (
            f"objective={objective.name} needs one more response drawn from the reference policy: "
            f"a pool of sampled responses larger than num_responses={k} (dataset="
            f"{run.dataset.name} with dataset.pool.num_responses={size})"
        )
    if run.collection.rounds > 1 and run.collection.reference == "sft":
        yield (
            f"objective={objective.name} needs a response drawn from the reference policy, but the "
            "pool of a round is drawn from the last policy: use collection.reference=last"
        )
