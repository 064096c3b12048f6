"""Tokens that were sampled for a run, stages that it shares with others included."""

from collections.abc import Iterable
from typing import Any

import pandas as pd


def tokens_generated(
    results: Iterable[tuple[str, dict[str, Any]]], online: Iterable[pd.DataFrame]
) -> int:
    """Tokens of all responses that a run's stages sampled, end tokens included.

    Those of response pools (not of responses that came with the data), of fresh responses in
    training, and of answers to held-out prompts.

    Args:
        results: name and result of each stage.
        online: the step metrics of the trainings that drew fresh responses.
    """
    sampled = 0
    for name, result in results:
        # responses that came with the data have no sampler (early pools name none, and sampled)
        given = "sampler" in result and result["sampler"] is None
        if name == "evaluation" or (name == "pool" and not given):
            sampled += int(result["tokens"])
    for steps in online:
        if len(steps):
            sampled += round(float((steps["responses"] * steps["length"]).sum()))
    return sampled
