"""Judges: the gold standard that labels and evaluation use, kept apart from training rewards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ablate.config.run import RunConfig
from ablate.datasets.base import PreferenceDataset
from ablate.errors import DataError
from ablate.rewards.scorers import ClassifierScorer, RewardModelScorer
from ablate.rewards.table import Answer


class Judge(Protocol):
    """Scores answers; higher is better."""

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """float[R], one score per answer."""
        ...


class WorldJudge:
    """The rule of an embedded world."""

    def __init__(self, dataset: PreferenceDataset, splits: Sequence[str]) -> None:
        self.dataset = dataset
        self.prompts = {prompt.id: prompt for split in splits for prompt in dataset.prompts(split)}

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        return np.array(
            [self.dataset.judge(self.prompts[a.prompt_id], a.response) for a in answers],
            dtype=np.float64,
        )


def open_judge(
    run: RunConfig, dataset: PreferenceDataset, splits: Sequence[str], model: Path | None
) -> Judge:
    """The judge of a run.

    Args:
        splits: the splits whose answers it will see (a world's judge needs their prompts' facts).
        model: the folder of the trained judge, for `judge=preference`.

    Raises:
        DataError: a judge that the stage was not given what it needs for.
    """
    judge = run.judge
    if judge.kind == "world":
        return WorldJudge(dataset, splits)
    if judge.kind == "hf":
        assert judge.path is not None
        return ClassifierScorer(judge.path, run.runtime.device)
    if model is None:
        raise DataError("judge=preference needs its trained model")
    return RewardModelScorer(model, run.runtime.device)
