"""Settings of the dataset that decide a stage's result, as parameters; empty where neutral."""

from typing import Any

from ablate.config.dataset import WorldConfig
from ablate.config.run import RunConfig


def label_model(run: RunConfig, seed: int) -> dict[str, Any]:
    """What makes labels differ from clean scores, and the seed of its draws."""
    labels = run.dataset.labels
    return {} if labels.clean else {"model": labels.identity(), "seed": seed}


def lengths(run: RunConfig) -> dict[str, Any]:
    """What happens to examples that are too long, where it is not to refuse them."""
    if isinstance(run.dataset, WorldConfig) or run.dataset.lengths.neutral:
        return {}
    return {"lengths": run.dataset.lengths.identity()}
