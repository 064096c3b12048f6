"""The pairing slot: which two responses of a prompt are compared, and which pairs are ties.

Responses are ranked by score, highest first; equal scores by `pairing_key`, lowest first. With
keys given, no choice depends on the order in which responses stand in the group; without them
the position is the key. Shapes: B prompts, K responses, P pairs per prompt.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.groups import PromptGroup


@dataclass(frozen=True)
class Pairs:
    """Pairs of response indices within each prompt."""

    #: int[B, P]: the response ranked higher, and the one ranked lower
    better: Tensor
    worse: Tensor
    #: bool[B, P]: both responses are present
    valid: Tensor
    #: bool[B, P]: valid, and both have the same score
    tied: Tensor

    def gap(self, values: Tensor) -> Tensor:
        """float[B, P]: values[better] - values[worse]."""
        return values.gather(1, self.better) - values.gather(1, self.worse)


def choose_pairs(pairing: str, group: PromptGroup) -> Pairs:
    """The pairs of each prompt under a pairing rule.

    - `best_vs_random`: the best against a random other, drawn as the response with the lowest
      key among those strictly worse; only where all are equal, the second in the ranking (a tie).
    - `best_vs_worst`: first against last in the ranking.
    - `adjacent`: each response against the next in the ranking.
    - `all_pairs`: all of them.
    """
    order = group.order()
    assert order is not None
    present, key = group.present, group.key()
    ranking = _ranking(order, present, key)
    count = ranking.shape[1]
    if count < 2:
        better = worse = ranking[:, :0]
    elif pairing == "adjacent":
        better, worse = ranking[:, :-1], ranking[:, 1:]
    elif pairing == "all_pairs":
        first, second = torch.triu_indices(count, count, offset=1, device=order.device)
        better, worse = ranking[:, first], ranking[:, second]
    elif pairing == "best_vs_worst":
        better = ranking[:, :1]
        last = (present.sum(dim=1, keepdim=True) - 1).clamp(min=1)
        worse = ranking.gather(1, last)
    else:
        better = ranking[:, :1]
        lower = present & (order < order.gather(1, better))
        drawn = key.masked_fill(~lower, torch.iinfo(key.dtype).max).argmin(dim=1, keepdim=True)
        worse = torch.where(lower.any(dim=1, keepdim=True), drawn, ranking[:, 1:2])
    valid = present.gather(1, better) & present.gather(1, worse)
    tied = valid & (order.gather(1, better) == order.gather(1, worse))
    return Pairs(better, worse, valid, tied)


def counted_pairs(config: ObjectiveConfig, pairs: Pairs) -> Tensor:
    """bool[B, P]: the pairs that enter the loss, without the ties where the config drops them."""
    return pairs.valid & ~pairs.tied if config.ties == "drop" else pairs.valid


def best_responses(group: PromptGroup) -> Tensor:
    """bool[B, K]: present and as good as the best of the prompt."""
    order = group.order()
    assert order is not None
    return is_best(order, group.present)


def is_best(order: Tensor, present: Tensor) -> Tensor:
    """bool[B, K]: present and as high in float[B, K] `order` as the highest present."""
    top = order.masked_fill(~present, -torch.inf).amax(dim=1, keepdim=True)
    return present & (order == top)


def _ranking(order: Tensor, present: Tensor, key: Tensor) -> Tensor:
    """int[B, K]: response indices by score (highest first), then key; absent ones last."""
    index = key.argsort(dim=1, stable=True)
    for values, descending in ((order, True), (present.to(torch.uint8), True)):
        step = values.gather(1, index).argsort(dim=1, descending=descending, stable=True)
        index = index.gather(1, step)
    return index
