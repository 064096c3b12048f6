"""Groups of ragged responses: what training may see of a prompt, and the order of presentation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.errors import DataError

#: fields of a group with one entry per response
_PER_RESPONSE = (
    "response_prompt_ids",
    "ref_logps",
    "rewards",
    "ranks",
    "pool_index",
    "ref_token_logps",
    "old_token_logps",
    "prev_logps",
    "win_probs",
    "extra_rewards",
    "token_weights",
    "token_kl_weights",
)
#: fields that are known of every prompt or of none
_ALL_OR_NONE = (*_PER_RESPONSE, "gold_ids", "rationale_ids", "rationale_prompt_ids", "sample_ids")


@dataclass(frozen=True)
class Group:
    """One prompt with the K responses that enter the loss and all that training may see of them.

    The fields up to `token_kl_weights` have one entry per response; None where it is not known.
    """

    prompt_id: str
    prompt_ids: list[int]
    #: token ids, the end token included
    response_ids: list[list[int]]
    #: log π_ref(y|x), summed over the response's tokens
    ref_logps: list[float] | None = None
    #: scores whose differences mean something
    rewards: list[float] | None = None
    #: order only (higher is better)
    ranks: list[float] | None = None
    #: index of each response in the sampled pool; settles choices that would else be random
    pool_index: list[int] | None = None
    #: log π_ref per token, for objectives that need it
    ref_token_logps: list[list[float]] | None = None
    #: per-token log-probs under the policy that drew the responses; None where they are fresh
    old_token_logps: list[list[float]] | None = None
    #: log π(y|x) under the policy of the round before
    prev_logps: list[float] | None = None
    #: [K][K]: probability that one response beats another, ½ on the diagonal
    win_probs: list[list[float]] | None = None
    #: [K][R]: further rewards beside the one that made the preference
    extra_rewards: list[list[float]] | None = None
    #: weights of the tokens' log-ratios, and of their KL
    token_weights: list[list[float]] | None = None
    token_kl_weights: list[list[float]] | None = None
    #: the prompt that each response answers, where they differ (joint pairs); `prompt_ids` is then
    #: the prompt of what has no own, such as a gold response
    response_prompt_ids: list[list[int]] | None = None
    #: a gold response to the prompt
    gold_ids: list[int] | None = None
    #: why the preferred response is better, and the text that asks for it
    rationale_ids: list[int] | None = None
    rationale_prompt_ids: list[int] | None = None
    #: one more response drawn from the reference policy, which the preference knows nothing of
    sample_ids: list[int] | None = None

    def prompt_of(self, index: int) -> list[int]:
        """Token ids of the prompt that a response answers."""
        if self.response_prompt_ids is None:
            return self.prompt_ids
        return self.response_prompt_ids[index]

    def rows(self) -> list[tuple[list[int], list[int]]]:
        """(prompt, response) for each response."""
        return [(self.prompt_of(k), ids) for k, ids in enumerate(self.response_ids)]

    def side_texts(self) -> dict[str, tuple[list[int], list[int]]]:
        """(prompt, response) of the texts beside the responses whose log-probs a loss may read."""
        texts = {}
        if self.gold_ids is not None:
            texts["gold"] = (self.prompt_ids, self.gold_ids)
        if self.rationale_ids is not None:
            assert self.rationale_prompt_ids is not None
            texts["rationale"] = (self.rationale_prompt_ids, self.rationale_ids)
        if self.sample_ids is not None:
            texts["sample"] = (self.prompt_ids, self.sample_ids)
        return texts


def check_groups(groups: Sequence[Group]) -> None:
    """Raise a DataError that names the first group whose lists do not fit together."""
    if not groups:
        raise DataError("there are no groups to train on")
    for group in groups:
        count = len(group.response_ids)
        if not count or not group.prompt_ids or not all(group.response_ids):
            raise DataError(f"prompt {group.prompt_id!r} has an empty prompt or response")
        for name in _PER_RESPONSE:
            values: Any = getattr(group, name)
            if values is not None and len(values) != count:
                raise DataError(
                    f"prompt {group.prompt_id!r} has {count} responses but {len(values)} {name}"
                )
        for name in _ALL_OR_NONE:
            if (getattr(group, name) is None) != (getattr(groups[0], name) is None):
                raise DataError(
                    f"{name} are known for some prompts only (prompt {group.prompt_id!r} differs "
                    f"from {groups[0].prompt_id!r})"
                )
        _check_shapes(group)


def _check_shapes(group: Group) -> None:
    """What has an entry per token or per other response must fit the responses."""
    lengths = [len(ids) for ids in group.response_ids]
    for name in ("ref_token_logps", "old_token_logps", "token_weights", "token_kl_weights"):
        rows = getattr(group, name)
        if rows is not None and [len(row) for row in rows] != lengths:
            raise DataError(
                f"prompt {group.prompt_id!r} has responses of {lengths} tokens but {name} of "
                f"{[len(row) for row in rows]}"
            )
    wins, count = group.win_probs, len(lengths)
    if wins is not None and any(len(row) != count for row in wins):
        raise DataError(f"win_probs of prompt {group.prompt_id!r} must be {count} x {count}")
    extra = group.extra_rewards
    if extra is not None and len({len(row) for row in extra}) != 1:
        raise DataError(
            f"the responses of prompt {group.prompt_id!r} differ in their number of extra_rewards"
        )
    if (group.rationale_ids is None) != (group.rationale_prompt_ids is None):
        raise DataError("rationale_ids and rationale_prompt_ids come together: one is missing")
    for name, (prompt, response) in group.side_texts().items():
        if not prompt or not response:
            raise DataError(f"the {name} of prompt {group.prompt_id!r} or its prompt is empty")
    if group.response_prompt_ids is not None and not all(group.response_prompt_ids):
        raise DataError(f"a response of prompt {group.prompt_id!r} has an empty prompt")


def presentation_order(count: int, total: int, seed: int) -> list[int]:
    """`total` positions into `count` examples: one seeded shuffle after another."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    order: list[int] = []
    while len(order) < total:
        order.extend(generator.permutation(count).tolist())
    return order[:total]


def mismatched_partners(order: Sequence[int], batch_size: int) -> list[int]:
    """For each position, the group whose responses stand for another prompt's.

    The next position within the same global batch (the first follows the last), so the partner
    does not depend on micro-batches or processes; a batch of one takes the position before it.
    """
    partners: list[int] = []
    for start in range(0, len(order), batch_size):
        window = list(order[start : start + batch_size])
        if len(window) == 1 and start:
            partners.append(order[start - 1])
        else:
            partners.extend(window[1:] + window[:1])
    return partners


def mismatched_pairs(group: Group, partner: Group) -> list[tuple[list[int], list[int]]]:
    """(prompt, response of another prompt) per response of `group`."""
    responses = partner.response_ids
    return [
        (group.prompt_of(k), responses[k % len(responses)]) for k in range(len(group.response_ids))
    ]
