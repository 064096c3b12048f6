"""How much work a stage is: responses and tokens that it generates, trains on or only reads."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from pydantic import TypeAdapter

from ablate.config.collection import round_prompts
from ablate.config.dataset import DatasetConfig, WorldConfig
from ablate.config.run import RunConfig
from ablate.datasets import PreferenceDataset, open_dataset
from ablate.stages.stage import Stage

#: tokens of a prompt where nothing has been measured: a world's sentence, a chat's question
WORLD_PROMPT, CHAT_PROMPT = 10, 256


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt and of a response."""

    prompt: float
    response: float

    @property
    def both(self) -> float:
        return self.prompt + self.response


@dataclass(frozen=True)
class Work:
    """Of one stage; tokens count a prompt once per response."""

    samples: float = 0.0
    generated: float = 0.0
    trained: float = 0.0
    read: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            *(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )

    @property
    def passes(self) -> float:
        """Tokens in units of one forward pass: training is three (forward and twice backward)."""
        return self.generated + 3 * self.trained + self.read


def lengths_of(run: RunConfig, response: float | None = None) -> Lengths:
    """Expected tokens; a response is as long as allowed where nothing was measured."""
    prompt = WORLD_PROMPT if isinstance(run.dataset, WorldConfig) else CHAT_PROMPT
    return Lengths(prompt, response or run.dataset.pool.sampling.max_new_tokens)


def work_of(stage: Stage, lengths: Lengths) -> Work:
    """The work of a stage, computed from its configuration alone."""
    run = stage.run
    match stage.name:
        case "sft":
            steps = run.base_model.sft.steps
            return Work(trained=steps * run.base_model.sft.batch_size * lengths.both)
        case "pool":
            if "pool" not in stage.params:
                return Work()
            return _drawn(_prompts(stage) * stage.params["pool"]["num_responses"], lengths)
        case "ref_logps":
            return Work(read=_prompts(stage.inputs["pool"]) * _pooled(run) * lengths.both)
        case "reward_model":
            passes = stage.params["training"]["epochs"]
            return Work(trained=2 * _labels(stage) * passes * lengths.both)
        case "policy":
            return _training(run, lengths)
        case "select":
            kept = max(1, steps_of(run) // run.training.checkpoint_every)
            return _drawn(kept * _answers(stage), lengths)
        case "answers":
            return _drawn(_answers(stage), lengths)
        case "evaluation":
            count = _answers(stage)
            return replace(_drawn(count, lengths), read=2 * count * lengths.both)
    return Work()


def steps_of(run: RunConfig) -> int:
    """Optimizer steps of one round of preference training."""
    steps = math.ceil(_round(run) / run.training.batch_size * run.training.epochs)
    return min(steps, run.training.max_steps or steps)


def optimizer_steps(stage: Stage) -> int:
    """Optimizer steps of a stage; 0 where it trains nothing."""
    match stage.name:
        case "sft":
            return stage.run.base_model.sft.steps
        case "policy":
            return steps_of(stage.run)
        case "reward_model":
            training = stage.params["training"]
            return math.ceil(_labels(stage) * training["epochs"] / training["batch_size"])
    return 0


def _labels(stage: Stage) -> int:
    """Labelled comparisons that a learnt reward trains on."""
    if stage.params["training"]["num_labels"] is not None:
        return int(stage.params["training"]["num_labels"])
    splits = {pool.params["split"] for pool in stage.inputs.values() if "split" in pool.params}
    dataset = stage.run.dataset.model_dump_json()
    return _comparisons(dataset, "judge" if "judge" in splits else "reward", _pooled(stage.run))


@lru_cache(maxsize=512)
def _comparisons(dataset: str, split: str, pooled: int) -> int:
    """Disjoint pairs of the responses to each prompt of a split."""
    opened = _open(dataset)
    if opened.has_responses:
        return sum(count // 2 for count in opened.response_counts(split).values())
    return opened.num_prompts(split) * (pooled // 2)


def num_prompts(run: RunConfig, split: str) -> int:
    """Prompts of a split."""
    return _size(run.dataset.model_dump_json(), split)


@lru_cache(maxsize=512)
def _size(dataset: str, split: str) -> int:
    return _open(dataset).num_prompts(split)


def _open(dataset: str) -> PreferenceDataset:
    return open_dataset(TypeAdapter[DatasetConfig](DatasetConfig).validate_json(dataset))


def _round(run: RunConfig) -> int:
    """Prompts of the first round; later ones differ by old prompts only."""
    first, last, old = round_prompts(run.collection, num_prompts(run, "train"))[0]
    return last - first + old


def _prompts(pool: Stage) -> int:
    """Prompts of a pool."""
    if "part" in pool.params:
        return _round(pool.run)
    count = num_prompts(pool.run, pool.params["split"])
    return min(count, pool.params.get("limit") or count)


def _pooled(run: RunConfig) -> int:
    return run.dataset.pool.num_responses


def _answers(stage: Stage) -> int:
    """Responses to held-out prompts."""
    prompts = sum(split["num"] for split in stage.params["splits"].values())
    return int(prompts * stage.params["samples_per_prompt"])


def _drawn(count: float, lengths: Lengths) -> Work:
    return Work(samples=count, generated=count * lengths.both)


def _training(run: RunConfig, lengths: Lengths) -> Work:
    """One round: K responses per visited prompt, and what is drawn on the way."""
    visits = steps_of(run) * run.training.batch_size
    if run.training.max_steps is None:
        visits = round(_round(run) * run.training.epochs)
    work = Work(trained=visits * run.num_responses.k * lengths.both)
    collection = run.collection
    if collection.refresh_every is not None:
        drawn = visits * (collection.num_samples or run.num_responses.k)
        # the reference reads what was drawn
        work += replace(_drawn(drawn, lengths), read=drawn * lengths.both)
    if collection.curve_every is not None:
        points = 2 + steps_of(run) // collection.curve_every
        work += _drawn(points * collection.curve_prompts, lengths)
    return work
