"""Opening a training reward from what was planned: one object that scores any answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.config.reward import ExplicitReward, RewardConfig, parts
from ablate.config.run import RunConfig
from ablate.config.shaping import ShapingConfig
from ablate.datasets import open_dataset
from ablate.rewards.classifier import ClassifierScorer, ClassifierSource
from ablate.rewards.scorers import (
    GeneralPreference,
    ImplicitScorer,
    RewardModelScorer,
)
from ablate.rewards.shaping import Shaper
from ablate.rewards.sources import (
    EnsembleSource,
    FormatScorer,
    KnownScores,
    LengthScorer,
    PairwiseSource,
    PatternVerifier,
    PreferenceSource,
    ScalarSource,
    Scorer,
    SumSource,
    VectorSource,
    Verified,
)
from ablate.rewards.table import Source, TrainingReward
from ablate.stages.common import LABELS, MODEL, RESULT, load_pair
from ablate.stages.context import Context
from ablate.stages.external import model_folder, plain_classifier
from ablate.stages.judging import labelled_by, open_planned
from ablate.stages.reward_plan import input_name
from ablate.store.files import read_json
from ablate.store.tables import read_table


def open_reward(context: Context, splits: Sequence[str], fitted: bool = True) -> TrainingReward:
    """The training reward of a stage whose `params["reward"]` and inputs describe it.

    Every kind of source opens; it scores the answers of the stored pool and, where its kind
    allows, answers that are new (`rewards.table.TrainingReward.score`).

    Args:
        context: its inputs are those of `plan_reward`, with `scores` (the scores stage) where
            `fitted`, and with `labels` where the source reads labels of the stored pool.
        splits: the splits whose prompts will be answered.
        fitted: takes the normalisers' numbers from the scores stage; else `fit` must be called.

    Raises:
        DataError, ModelError: a source that cannot be opened here.
    """
    opening = _Opening(context, splits)
    params = context.params["reward"]
    reward = opening.reward(params, context.run.reward, ())
    if "shaping" in params:
        shaping = params["shaping"]
        reward.shaper = Shaper(ShapingConfig.model_validate({**shaping, "name": shaping["kind"]}))
    if fitted:
        reward.restore(read_json(context.inputs["scores"] / RESULT)["fitted"])
    return reward


class _Opening:
    """Walks the planned parameters and the configuration, which holds the paths, side by side."""

    def __init__(self, context: Context, splits: Sequence[str]) -> None:
        self.run: RunConfig = context.run
        self.inputs: dict[str, Path] = context.inputs
        self.splits = splits
        self.device = context.run.runtime.device

    def reward(
        self, params: dict[str, Any], config: RewardConfig, path: tuple[str, ...]
    ) -> TrainingReward:
        # where another limit than `clip_at` is in force, the field is not read
        clip_at = params.get("clip_at", config.clip_at)
        return TrainingReward(self._source(params, config, path), params["normalize"], clip_at)

    def _source(
        self, params: dict[str, Any], config: RewardConfig, path: tuple[str, ...]
    ) -> Source:
        kind = params["kind"]
        if kind == "gpm":
            return PreferenceSource(
                GeneralPreference(self._model(path), self.device, params["tau"])
            )
        if "parts" not in params:
            return ScalarSource(self._scorer(params, config, path), order_only=kind == "labels")
        inner = parts(config)
        opened, weights = {}, {}
        for name in params["order"]:
            part = params["parts"][name]
            opened[name] = self.reward(part["source"], inner[name].source, (*path, name))
            weights[name] = part["weight"]
        if kind == "ensemble":
            return EnsembleSource(opened, params["combine"], params["sd_weight"])
        if kind == "pairwise":
            return PairwiseSource(opened["source"], params["rule"], params["tau"])
        return (SumSource if kind == "composite" else VectorSource)(opened, weights)

    def _scorer(
        self, params: dict[str, Any], config: RewardConfig, path: tuple[str, ...]
    ) -> Scorer:
        kind = params["kind"]
        if kind == "labels":
            return KnownScores(self._known("label"), self._annotator())
        if kind == "gold":
            from_data = params["scores_from"] == "data"
            return KnownScores(self._known("clean"), None) if from_data else self._judge(params)
        if kind == "verifier":
            if "pattern" not in params:
                return Verified(self._judge(params))
            return PatternVerifier(params["pattern"], self._references())
        if kind == "length":
            return LengthScorer(params["target"])
        if kind == "format":
            return FormatScorer(params["pattern"])
        if kind == "implicit":
            start = self.inputs["reward_reference"] / MODEL
            policy, reference, tokenizer = load_pair(self._model(path), start, self.run)
            beta = read_json(self._model(path).parent / RESULT)["beta"]
            return ImplicitScorer(policy, reference, tokenizer, beta)
        if "content" in params:
            assert isinstance(config, ExplicitReward)
            assert config.path is not None
            folder = Path(model_folder(config.path, params["content"]))
            classifier = plain_classifier(config.path, params["output"])
            source = ClassifierSource(classifier, folder, self.device, f"reward={config.name}")
            return ClassifierScorer(source)
        return RewardModelScorer(self._model(path), self.device)

    def _model(self, path: tuple[str, ...]) -> Path:
        return self.inputs[input_name(path)] / MODEL

    def _judge(self, params: dict[str, Any]) -> Scorer:
        dataset = open_dataset(self.run.dataset)
        content = params.get("judge")
        return open_planned(self.run, dataset, self.splits, content, self.inputs)

    def _annotator(self) -> Scorer | None:
        """Who orders answers that are new: the judge, unless nobody but the data has a say."""
        if labelled_by(self.run) == "given" and not self.run.collection.fresh:
            return None
        if self.run.judge.kind == "preference" and "judge" not in self.inputs:
            return None
        return self._judge({})

    def _known(self, column: str) -> dict[tuple[str, int], float]:
        """Labels of the stored pool, or the clean scores behind them, by prompt and place."""
        if "labels" not in self.inputs:
            return {}
        table: pd.DataFrame = read_table(self.inputs["labels"] / LABELS)
        values = table[column if column in table else "label"]
        keys = zip(table["prompt_id"], table["index"], strict=True)
        return {(str(k), int(i)): float(v) for (k, i), v in zip(keys, values, strict=True)}

    def _references(self) -> dict[str, str]:
        dataset = open_dataset(self.run.dataset)
        prompts = [prompt for split in self.splits for prompt in dataset.prompts(split)]
        return {
            prompt.id: str(prompt.facts["reference"])
            for prompt in prompts
            if "reference" in prompt.facts
        }
