"""Preflight: what only the data can tell, checked before any work starts."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablate.config.collection import round_prompts
from ablate.config.dataset import DatasetConfig, LocalConfig
from ablate.config.judge import JudgeConfig
from ablate.config.reward import GoldReward, training_of, walk
from ablate.config.run import RunConfig
from ablate.datasets import SPLITS, PreferenceDataset, open_dataset
from ablate.errors import DataError, ModelError
from ablate.evaluation.http_client import read_key
from ablate.stages.external import local_folder
from ablate.stages.judging import labelled_by

#: how many of the longest texts are tokenised
MEASURED = 64


def check_data(run: RunConfig) -> None:
    """Opens the dataset (a local file is read and checked in full) and compares the run with it.

    Raises:
        DataError: responses that fall short of K, scores where there is only an order, too few
            prompts or labels in a split.
        ModelError: a sequence that is longer than the model's context, a sampler that is missing.
    """
    if run.sampler.kind == "vllm":
        from ablate.sampling.vllm import check_installed

        check_installed()
    dataset = _open(run.dataset)
    if isinstance(run.dataset, LocalConfig):
        fresh = run.collection.fresh
        if not fresh:
            _check_counts(run, dataset)
        _check_labels(run, dataset)
        of_data = [
            source
            for source in walk(run.reward)
            if isinstance(source, GoldReward) and source.scores_from == "data"
        ]
        given = labelled_by(run) == "given"
        if of_data and given and not dataset.has_scores:
            raise DataError(
                f"{run.dataset.path} says only which response is better; reward=gold needs scores. "
                "Use reward=labels, reward=explicit or reward=implicit, or "
                "dataset.labelled_by=judge"
            )
    _check_context(run, dataset)
    wanted = ["train", "test"]
    if run.training.select_checkpoint == "valid" or run.collection.curve_every is not None:
        wanted.append("valid")
    for split in wanted:
        if not dataset.num_prompts(split):
            raise DataError(f"dataset={run.dataset.name} has no prompts in the split '{split}'")
    rounds = round_prompts(run.collection, dataset.num_prompts("train"))
    if min(last - first + old for first, last, old in rounds) < 1:
        raise DataError(
            f"collection.round_prompts={run.collection.round_prompts} of "
            f"{dataset.num_prompts('train')} train prompts leaves a round without any"
        )


@functools.lru_cache(maxsize=4)
def check_judge(judge: JudgeConfig, device: str) -> None:
    """Refuses a judge that could not judge, before the work that leads up to it.

    Raises:
        ModelError: a classifier whose tokenizer does not fit it, or with several outputs.
        JudgeError: an endpoint's key is not in the environment.
    """
    if judge.kind == "http":
        read_key(judge.api_key_env)
    if judge.kind == "hf":
        from ablate.rewards.classifier import ClassifierSource

        folder = Path(local_folder(judge.path, judge.revision, "judge.path"))
        ClassifierSource(judge, folder, device, f"judge={judge.name}").check()


def _check_labels(run: RunConfig, dataset: PreferenceDataset) -> None:
    """Learnt rewards and judges need comparisons, beside those held out to measure them."""
    needed: dict[str, int] = {}
    if labelled_by(run) == "given":
        needed = {} if run.collection.fresh else {"train": 1}
        if any(training_of(source) is not None for source in walk(run.reward)):
            needed["reward"] = 2
    if run.judge.kind == "preference":
        needed["judge"] = 2
    for split, least in needed.items():
        labels: dict[str, set[float]] = {}
        for item in dataset.responses(split):
            labels.setdefault(item.prompt_id, set()).add(item.score)
        untied = sum(len(scores) > 1 for scores in labels.values())
        if untied < least:
            share = "" if split == "train" else f"; raise dataset.{split}_share"
            raise DataError(
                f"the split '{split}' of dataset={run.dataset.name} has {untied} prompts whose "
                f"responses differ in score, and needs at least {least}{share}"
            )


def _check_context(run: RunConfig, dataset: PreferenceDataset) -> None:
    """Compares the longest sequences with the model's context, before any stage starts."""
    of_prompt, of_response, limit = _token_counters(run, dataset)
    if limit is None:
        return
    # the prompts of a world are alike: a few of each split tell their length
    some = None if dataset.has_responses else MEASURED
    prompts = [prompt for split in SPLITS for prompt in dataset.prompts(split, limit=some)]
    longest = max(map(of_prompt, _longest([prompt.text for prompt in prompts])), default=0)
    room = run.evaluation.sampling.max_new_tokens
    if not dataset.has_responses or run.collection.fresh:
        own = run.collection.sampling or run.dataset.pool.sampling
        room = max(room, own.max_new_tokens, run.dataset.pool.sampling.max_new_tokens)
    _refuse_long(longest + room, limit, f"the longest prompt with {room} new tokens")
    if dataset.has_responses:
        texts = {prompt.id: prompt.text for prompt in prompts}
        given = [
            item for split in ("train", "reward", "judge") for item in dataset.responses(split)
        ]
        pairs = _longest([(texts[item.prompt_id], item.text) for item in given])
        longest = max((of_prompt(p) + of_response(r) for p, r in pairs), default=0)
        _refuse_long(longest, limit, "the longest prompt with its response")


def _token_counters(
    run: RunConfig, dataset: PreferenceDataset
) -> tuple[Callable[[str], int], Callable[[str], int], int | None]:
    """Tokens of a prompt and of a response with their special tokens, and the context length."""
    model = run.base_model
    if model.kind == "scratch":
        # the tokenizers that ablate builds: one token per word or per byte, two around a prompt
        # and one after a response
        words = dataset.vocabulary is not None

        def size(text: str) -> int:
            return len(text.split() if words else text.encode())

        return lambda text: size(text) + 2, lambda text: size(text) + 1, model.context_length

    from ablate.models.loading import context_of_path
    from ablate.models.tokenizer import encode_prompt, encode_response, load_tokenizer

    assert model.path is not None
    path = str(Path(model.path).expanduser())
    own = context_of_path(path, model.revision, model.trust_remote_code)
    tokenizer = load_tokenizer(path, model.revision, model.trust_remote_code, model.thinking)
    limits = [limit for limit in (own, model.context_length) if limit is not None]
    return (
        lambda text: len(encode_prompt(tokenizer, text)),
        lambda text: len(encode_response(tokenizer, text)),
        min(limits, default=None),
    )


def _longest(texts: list[Any]) -> list[Any]:
    """The texts with most characters: among them is the one with most tokens, or nearly so."""
    return sorted(texts, key=lambda text: -len("".join(text)))[:MEASURED]


def _refuse_long(tokens: int, limit: int, what: str) -> None:
    if tokens > limit:
        raise ModelError(
            f"{what} has {tokens} tokens, but the model's context holds {limit}. Shorten the "
            "texts, lower max_new_tokens (dataset.pool.sampling, evaluation.sampling), or take a "
            "model with a longer context"
        )


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
