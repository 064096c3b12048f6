"""Preflight: what only the data can tell, checked before any work starts."""

import functools

from ablate.config.dataset import DatasetConfig, LocalConfig
from ablate.config.run import RunConfig
from ablate.datasets import PreferenceDataset, open_dataset
from ablate.errors import DataError


def check_data(run: RunConfig) -> None:
    """Opens the dataset (a local file is read and checked in full) and compares K with it.

    Raises:
        DataError: responses that fall short of K, scores where there is only an order, or too few
            prompts in a split.
    """
    dataset = _open(run.dataset)
    if isinstance(run.dataset, LocalConfig):
        _check_counts(run, dataset)
        if run.reward.kind == "gold" and not dataset.has_scores:
            raise DataError(
                f"{run.dataset.path} says only which response is better; reward=gold needs scores. "
                "Use reward=labels, reward=explicit or reward=implicit"
            )
    learnt = run.reward.training is not None and run.reward.path is None
    for split, wanted in (("train", True), ("reward", learnt)):
        if wanted and not dataset.prompts(split):
            raise DataError(f"dataset={run.dataset.name} has no prompts in the split '{split}'")


def _check_counts(run: RunConfig, dataset: PreferenceDataset) -> None:
    k = run.num_responses.k
    counts = dataset.response_counts("train")
    short = [count for count in counts.values() if count < k]
    if short:
        raise DataError(
            f"num_responses is {k}, but {len(short)} of {len(counts)} training prompts have fewer "
            f"responses (the least: {min(short)}). Use num_responses.k={min(short)} or less, or "
            "leave those prompts out of the file"
        )


@functools.lru_cache(maxsize=4)
def _open(config: DatasetConfig) -> PreferenceDataset:
    return open_dataset(config)
