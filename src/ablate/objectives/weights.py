"""The weight slot: a factor on each pair's loss, without gradient."""

import torch
from torch import Tensor

from ablate.config.objective import ObjectiveConfig
from ablate.groups import PromptGroup
from ablate.objectives.pairs import Pairs

#: 2^r of anything above this says no more than that it is huge
_HIGHEST_GAIN = 60.0
#: half the logarithm of any vocabulary is less
_HIGHEST_MEAN = 10.0


def pair_weights(
    config: ObjectiveConfig, group: PromptGroup, pairs: Pairs, scores: Tensor
) -> Tensor | None:
    """float[B, P]: what each pair counts; None where all count one."""
    match config.weight:
        case "none":
            return None
        case "policy":
            weight = _probability(group)
            return weight.gather(1, pairs.better) * weight.gather(1, pairs.worse)
        case "lambda_rank":
            return _lambda_rank(group, pairs, scores.detach())


def _probability(group: PromptGroup) -> Tensor:
    """float[B, K]: exp of the mean over tokens of log π - log Σ_v π² (WPO, 2406.11827, eq. 2).

    It is about 1 for a response that the policy would sample, less for others.
    """
    assert group.log_sum_sq is not None
    assert group.lengths is not None
    logps = group.policy_logps.detach().to(group.dtype)
    mean = (logps - group.log_sum_sq.detach().to(group.dtype)) / group.lengths.clamp(min=1)
    # of true probabilities it is at most half the logarithm of the vocabulary's size
    mean = torch.where(group.present, mean, torch.zeros_like(mean)).clamp(max=_HIGHEST_MEAN)
    return mean.exp()


def _lambda_rank(group: PromptGroup, pairs: Pairs, scores: Tensor) -> Tensor:
    """|G_w - G_l|·|1/D_w - 1/D_l|, G = 2^r - 1, D = log(1 + rank by score) (2402.01878).

    Equal scores are ranked by pairing key: at the reference all are equal, and a weight of zero
    for every pair would leave nothing to learn from.
    """
    assert group.rewards is not None
    present, key = group.present, group.key()
    rewards = torch.where(present, group.rewards.to(scores.dtype), 0.0)
    gain = torch.exp2(rewards.clamp(max=_HIGHEST_GAIN)) - 1
    higher = scores[:, None, :] > scores[:, :, None]
    level = scores[:, None, :] == scores[:, :, None]
    ahead = (higher | (level & (key[:, None, :] < key[:, :, None]))) & present[:, None, :]
    rank = 1 + ahead.sum(dim=2).to(scores.dtype)
    discount = 1 / torch.log1p(rank)
    return pairs.gap(gain).abs() * pairs.gap(discount).abs()
