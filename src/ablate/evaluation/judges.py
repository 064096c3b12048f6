"""Judges: the gold standard that labels and evaluation use, kept apart from training rewards."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ablate.config.run import RunConfig
from ablate.datasets.base import PreferenceDataset
from ablate.errors import DataError
from ablate.evaluation.http_judge import HttpSource
from ablate.evaluation.verdicts import Item, Remembered, Tally
from ablate.rewards.classifier import ClassifierSource, turns_of
from ablate.rewards.scorers import RewardModelScorer
from ablate.rewards.sources import Scorer
from ablate.rewards.table import Answer


class Judge(Protocol):
    """Scores answers; higher is better. Counts what it did in `tally`."""

    tally: Tally

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """float[R], one finite score per answer."""
        ...


class WorldJudge:
    """The rule of an embedded world."""

    def __init__(self, dataset: PreferenceDataset, splits: Sequence[str]) -> None:
        self.dataset, self.tally = dataset, Tally()
        self.prompts = {prompt.id: prompt for split in splits for prompt in dataset.prompts(split)}

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        with self.tally.timed(len(answers)):
            return np.array(
                [self.dataset.judge(self.prompts[a.prompt_id], a.response) for a in answers],
                dtype=np.float64,
            )


class ModelJudge:
    """A reward model trained on held-out labels; new with every seed of the data, so not kept."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.tally = scorer, Tally()

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        with self.tally.timed(len(answers)):
            return self.scorer.score(answers)


class PointwiseJudge:
    """Each answer by itself, by a source whose verdicts are remembered."""

    def __init__(self, source: Remembered) -> None:
        self.source, self.tally = source, source.tally

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        with self.tally.timed(len(answers)):
            return self.source.verdicts(
                [{"turns": turns_of(answer), "response": answer.response} for answer in answers]
            )


class PairwiseJudge:
    """The probability that an answer beats its opponents, by a source that compares two.

    An answer's opponent is its `opponent` where it has one, and else each of the other answers to
    the same prompt: the score is the mean over them. Two equal texts are worth a half each, and so
    is an answer that stands alone; neither is asked about.
    """

    def __init__(self, source: Remembered, swap: bool) -> None:
        self.source, self.tally, self.swap = source, source.tally, swap

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        with self.tally.timed(len(answers)):
            rivals = _rivals(answers)
            pairs = {
                (number, rival)
                for number, others in enumerate(rivals)
                for rival in others
                if rival != answers[number].response
            }
            items = [
                (answers[number], first, second)
                for number, rival in sorted(pairs)
                for first, second in self._orders(answers[number].response, rival)
            ]
            verdicts = self.source.verdicts([_comparison(*item) for item in items])
            won = {
                (answer.prompt_id, first, second): float(verdict)
                for (answer, first, second), verdict in zip(items, verdicts, strict=True)
            }
            return np.array(
                [
                    np.mean([self._beats(won, a, rival) for rival in others]) if others else 0.5
                    for a, others in zip(answers, rivals, strict=True)
                ],
                dtype=np.float64,
            )

    def _orders(self, response: str, rival: str) -> list[tuple[str, str]]:
        """As it is asked about: both orders, or one that does not depend on who asks."""
        both = [(response, rival), (rival, response)]
        return both if self.swap else [min(both)]

    def _beats(self, won: dict[tuple[str, str, str], float], answer: Answer, rival: str) -> float:
        if rival == answer.response:
            return 0.5
        told = [
            won[(answer.prompt_id, first, second)]
            if first == answer.response
            else 1 - won[(answer.prompt_id, first, second)]
            for first, second in self._orders(answer.response, rival)
        ]
        return sum(told) / len(told)


def _rivals(answers: Sequence[Answer]) -> list[list[str]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for number, answer in enumerate(answers):
        groups[answer.prompt_id].append(number)
    return [
        [answer.opponent]
        if answer.opponent is not None
        else [answers[o].response for o in groups[answer.prompt_id] if o != number]
        for number, answer in enumerate(answers)
    ]


def _comparison(answer: Answer, first: str, second: str) -> Item:
    return {"turns": turns_of(answer), "response_a": first, "response_b": second}


def open_judge(
    run: RunConfig,
    dataset: PreferenceDataset,
    splits: Sequence[str],
    model: Path | None,
    content: dict[str, Any],
    memory: Path,
) -> Judge:
    """The judge of a run.

    Args:
        splits: the splits whose answers it will see (a world's judge needs their prompts' facts).
        model: the folder of the judge's model, for `judge=preference` and `judge=hf`.
        content: the judge's identity, from the stage's parameters: what decides its scores.
        memory: the folder that holds a folder of verdicts for each judge.

    Raises:
        DataError: a judge that the stage was not given what it needs for.
        JudgeError: a key that is not there.
    """
    judge = run.judge
    if judge.kind == "world":
        return WorldJudge(dataset, splits)
    if judge.kind == "http":
        remembered = Remembered(HttpSource(judge, content["template"]), memory, content)
        if judge.chat.mode == "pairwise":
            return PairwiseJudge(remembered, judge.chat.swap)
        return PointwiseJudge(remembered)
    if model is None:
        raise DataError(f"judge={judge.name} needs the folder of its model")
    if judge.kind == "hf":
        source = ClassifierSource(judge, model, run.runtime.device, f"judge={judge.name}")
        return PointwiseJudge(Remembered(source, memory, content))
    return ModelJudge(RewardModelScorer(model, run.runtime.device))
