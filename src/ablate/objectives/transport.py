"""Optimal transport over the batch: margins between sorted values (AOT, arXiv 2406.05882)."""

import torch
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.groups import PromptGroup
from ablate.objectives.pairs import Pairs


def sorted_margin(
    config: ObjectiveConfig, group: PromptGroup, pairs: Pairs, scores: Tensor, counted: Tensor
) -> Tensor:
    """float[B, P] margins after sorting across the pairs that count (bool[B, P] `counted`).

    `gaps` compares the sorted gaps of the policy with those of the reference, `scores` the sorted
    scores of better responses with those of worse ones. Which prompt a margin is written to means
    nothing: only the sum over the batch does.
    """
    if config.batch_sort == "gaps":
        assert group.ref_logps is not None
        reference = config.beta * group.ref_logps.to(scores.dtype)
        reference = torch.where(group.present, reference, torch.zeros_like(reference))
        high, low = pairs.gap(scores + reference), pairs.gap(reference)
    else:
        high, low = scores.gather(1, pairs.better), scores.gather(1, pairs.worse)
    margin = torch.zeros_like(high)
    margin[counted] = high[counted].sort().values - low[counted].sort().values
    return margin
