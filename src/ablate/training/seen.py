"""What the micro-batches of a step showed: groups without gradient, joined, and their means."""

from dataclasses import fields, replace

import torch
from torch.nn.functional import pad

from ablate.groups import PromptGroup
from ablate.training.collate import SIDE_TEXTS


def response_metrics(group: PromptGroup) -> dict[str, float]:
    """Means over the present responses, moved off the device in one go."""
    shown = group.present
    values = {"length": group.lengths, "logp": group.policy_logps}
    if group.ref_logps is not None:
        ratio = torch.where(shown, group.policy_logps - group.ref_logps, 0.0)
        # beyond e^30 the estimate says no more than that it is huge
        values |= {"log_ratio": ratio, "kl_ref_policy": torch.expm1(ratio.clamp(max=30)) - ratio}
    if group.rewards is not None:
        values["reward"] = group.rewards
    count = shown.sum()
    sums = [torch.where(shown, value, 0).sum() for value in values.values() if value is not None]
    means = torch.stack([total.float() / count.clamp(min=1) for total in sums])
    numbers = torch.cat([count.float()[None], means]).tolist()
    return dict(zip(["responses", *values], numbers, strict=True))


def detached(group: PromptGroup) -> PromptGroup:
    side = tuple(f"{name}_logps" for name in SIDE_TEXTS)
    names = ("policy_logps", "token_logps", "token_kl", "log_sum_sq", *side)
    values = {name: getattr(group, name) for name in names}
    return replace(group, **{n: value.detach() for n, value in values.items() if value is not None})


def concatenate(groups: list[PromptGroup]) -> PromptGroup:
    """One group of all prompts, widened to the largest K and the longest response."""
    if len(groups) == 1:
        return groups[0]
    width = max(group.num_responses for group in groups)
    wide = [group.pad_to(width) for group in groups]
    joined = {}
    for field in fields(PromptGroup):
        values = [getattr(group, field.name) for group in wide]
        if values[0] is None:
            continue
        if values[0].dim() > 1:
            last = max(value.shape[-1] for value in values)
            values = [pad(value, (0, last - value.shape[-1])) for value in values]
        joined[field.name] = torch.cat(values)
    return PromptGroup(**joined)
