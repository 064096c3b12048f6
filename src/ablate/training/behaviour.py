"""Log-probs under the policy that drew the responses, which a policy gradient divides by."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.errors import DataError
from ablate.models.logps import response_token_logps
from ablate.objectives import Objective
from ablate.training.groups import Group

#: who drew the responses: their log-probs come with them, the weights before training, or the
#: weights of every step anew (no ratio is needed)
Behaviour = Literal["given", "initial", "fresh"]
#: tokens per forward pass
_BATCH_TOKENS = 16384


def with_behaviour(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, groups: Sequence[Group]
) -> list[Group]:
    """The groups with `old_token_logps` of the model as it is, which has just drawn them."""
    items = [(prompt, [ids]) for group in groups for prompt, ids in group.rows()]
    values = iter(response_token_logps(model, tokenizer, items, _BATCH_TOKENS))
    return [
        replace(group, old_token_logps=[next(values)[0] for _ in group.response_ids])
        for group in groups
    ]


def of_behaviour(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    objective: Objective,
    behaviour: Behaviour,
) -> Sequence[Group]:
    """The groups as an objective with importance ratios needs them; others as they are.

    Raises `DataError` where nobody knows under which policy the responses were drawn: a ratio
    of 1 would be wrong from the second step on, and from the first if another model drew them.
    """
    if not objective.needs.behaviour or behaviour == "fresh":
        return groups
    if groups[0].old_token_logps is not None:
        return groups
    if behaviour == "initial":
        return with_behaviour(model, tokenizer, groups)
    raise DataError(
        f"objective={objective.name} weighs responses by the policy that drew them, and these "
        "groups have no old_token_logps. Draw them from the policy itself (a world's pool, or "
        "collection=online), or take an objective without importance ratios, such as rpo_sqloo"
    )
