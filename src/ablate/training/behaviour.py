"""Log-probs under the policy that drew the responses, which a policy gradient divides by."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.errors import DataError
from ablate.objectives import Objective
from ablate.training.groups import Group
from ablate.training.source import token_rows

#: who drew the responses of fixed groups: somebody whose log-probs come with them, if anyone, or
#: the weights before training
Behaviour = Literal["given", "initial"]


def with_behaviour(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    *,
    attached: bool = False,
) -> list[Group]:
    """The groups with `old_token_logps` of the policy as it is, which has just drawn them.

    `attached` as in `response_token_logps`.
    """
    rows = token_rows(policy, tokenizer, groups, attached=attached)
    return [replace(group, old_token_logps=row) for group, row in zip(groups, rows, strict=True)]


def of_behaviour(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    objective: Objective,
    behaviour: Behaviour,
) -> Sequence[Group]:
    """Fixed groups as an objective with importance ratios needs them; others as they are.

    Raises `DataError` where nobody knows under which policy the responses were drawn: a ratio
    of 1 would be wrong from the second step on, and from the first if another model drew them.
    """
    if not objective.needs.behaviour or groups[0].old_token_logps is not None:
        return groups
    if behaviour == "initial":
        return with_behaviour(model, tokenizer, groups)
    raise DataError(
        f"objective={objective.name} weighs responses by the policy that drew them, and these "
        "groups have no old_token_logps. Draw them from the policy itself (a world's pool, or "
        "collection=online), or take an objective without importance ratios, such as rpo_sqloo"
    )
