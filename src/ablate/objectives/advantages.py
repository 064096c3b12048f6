"""The advantage slots: how much better than a baseline each response is, without gradient.

Shapes: B prompts, K responses, T tokens.
"""

import torch
from torch import Tensor

from ablate.config.objective import ObjectiveConfig


def advantages(
    config: ObjectiveConfig, values: Tensor, drift: Tensor | None, counted: Tensor, lengths: Tensor
) -> Tensor:
    """float[B, K], or float[B, K, T] with kl=in_return: what multiplies each ratio.

    Args:
        values: float[B, K], η·rewards, 0 where absent.
        drift: log π_old/π_ref, float[B, K] or float[B, K, T] (0 beyond the response); None without
            a KL in the reward.
        counted: bool[B, K], responses of usable prompts: what statistics of the batch are over.
        lengths: float[B, K], tokens, 0 where not counted.

    kl=in_reward takes β·Σ_t drift_t from the reward (arXiv 2402.14740); kl=in_return takes β times
    the drift from each token on (arXiv 2501.03262, eq. 8).
    """
    if drift is not None and config.kl == "in_reward":
        total = drift if drift.dim() == 2 else drift.sum(dim=2)
        values = values - config.beta * total
    centred = _centred(config, values, counted)
    if drift is not None and config.kl == "in_return":
        to_come = drift.flip(2).cumsum(2).flip(2)
        centred = centred[..., None] - config.beta * to_come
    return _scaled(config, centred, values, counted, lengths)


def _centred(config: ObjectiveConfig, values: Tensor, counted: Tensor) -> Tensor:
    """float[B, K]: values less the mean of the others, of all, or as they are."""
    if config.advantage == "reward":
        return torch.where(counted, values, torch.zeros_like(values))
    # from the prompt's best one, which is exact: equal values give 0 and not its rounding
    highest = values.masked_fill(~counted, -torch.inf).amax(dim=1, keepdim=True)
    below = torch.where(counted, values - highest, torch.zeros_like(values))
    count = counted.sum(dim=1, keepdim=True)
    centred = below - below.sum(dim=1, keepdim=True) / count.clamp(min=1)
    if config.advantage == "loo":
        centred = centred * (count / (count - 1).clamp(min=1))
    return torch.where(counted, centred, torch.zeros_like(centred))


def _scaled(
    config: ObjectiveConfig, centred: Tensor, values: Tensor, counted: Tensor, lengths: Tensor
) -> Tensor:
    """Divided by a standard deviation: of the prompt's rewards, of the batch's, or whitened."""
    if config.advantage_scale == "none":
        return centred
    assert config.scale_epsilon is not None
    shown = counted if centred.dim() == 2 else counted[..., None]
    if config.advantage_scale == "batch_whiten":
        centred, deviation = _whitened(centred, counted, lengths)
    elif config.advantage_scale == "group_std":
        deviation = _deviation(values, counted, dim=1)
        deviation = deviation if centred.dim() == 2 else deviation[..., None]
    else:
        deviation = _deviation(values.flatten(), counted.flatten(), dim=0)
    scaled = centred / (deviation + config.scale_epsilon)
    return torch.where(shown, scaled, torch.zeros_like(scaled))


def _deviation(values: Tensor, counted: Tensor, dim: int) -> Tensor:
    """Standard deviation (n - 1) along `dim`, which is kept; 0 for fewer than two."""
    highest = values.masked_fill(~counted, -torch.inf).amax(dim=dim, keepdim=True)
    below = torch.where(counted, values - highest, torch.zeros_like(values))
    count = counted.sum(dim=dim, keepdim=True)
    mean = below.sum(dim=dim, keepdim=True) / count.clamp(min=1)
    squares = torch.where(counted, (below - mean).square(), torch.zeros_like(below))
    return (squares.sum(dim=dim, keepdim=True) / (count - 1).clamp(min=1)).sqrt()


def _whitened(centred: Tensor, counted: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages less their mean over all tokens of the batch, and their standard deviation."""
    weight = lengths
    if centred.dim() == 3:
        steps = torch.arange(centred.shape[2], device=centred.device)
        weight = (steps < lengths[..., None]).to(centred.dtype)
    weight = torch.where(counted if weight.dim() == 2 else counted[..., None], weight, 0.0)
    total = weight.sum().clamp(min=1)
    centred = centred - (weight * centred).sum() / total
    return centred, ((weight * centred.square()).sum() / total).sqrt()
