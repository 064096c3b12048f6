"""Preflight: what only the data can tell, checked before any work starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablate.config.collection import round_prompts
from ablate.config.dataset import DatasetConfig, GivenConfig
from ablate.config.reward import GoldReward, training_of, walk
from ablate.config.run import RunConfig
from ablate.datasets import SPLITS, PreferenceDataset, Prompt, open_dataset
from ablate.datasets.chat import Conversation, render
from ablate.errors import DataError, ModelError
from ablate.stages.judging import labelled_by

#: how many of the longest texts are tokenised
MEASURED = 64


def check_data(run: RunConfig) -> list[str]:
    """Opens the dataset (files are read and checked in full) and compares the run with it.

    Returns:
        What a person should know of the data: sentences on what was left out, on ragged groups.

    Raises:
        DataError: nowhere K responses, scores where there is only an order, too few prompts or
            labels in a split, a gold response or a rationale that is missing.
        ModelError: a sequence that is longer than the model's context, a sampler that is missing.
    """
    if run.sampler.kind == "vllm":
        from ablate.sampling.vllm import check_installed

        check_installed()
    dataset = _open(run.dataset)
    notes = [f"{what}: {count:,}" for what, count in dataset.cleaning().items()]
    if isinstance(run.dataset, GivenConfig):
        fresh = run.collection.fresh
        if not fresh:
            notes += _check_counts(run, dataset)
        _check_labels(run, dataset)
        of_data = [
            source
            for source in walk(run.reward)
            if isinstance(source, GoldReward) and source.scores_from == "data"
        ]
        given = labelled_by(run) == "given"
        if of_data and given and not dataset.has_scores:
            raise DataError(
                f"dataset={run.dataset.name} says only which response is better; reward=gold needs "
                "scores. Use reward=labels, reward=explicit or reward=implicit, or "
                "dataset.labelled_by=judge"
            )
        _check_side_texts(run, dataset)
    if not run.dataset.labels.clean and isinstance(run.reward, GoldReward):
        notes.append(
            f"labels are noisy, but reward={run.reward.name} trains on the clean scores; the noise "
            "reaches reward=labels, explicit, implicit and gpm"
        )
    _check_context(run, dataset)
    wanted = ["train", "test"]
    if run.training.select_checkpoint == "valid" or run.collection.curve_every is not None:
        wanted.append("valid")
    _check_prompts(run, dataset, wanted)
    return notes


def check_sampling(run: RunConfig) -> list[str]:
    """As `check_data`, where responses are drawn and labelled and nothing learns from them.

    Raises:
        DataError: no training prompts. ModelError: as `check_data`.
    """
    dataset = _open(run.dataset)
    if run.sampler.kind == "vllm":
        from ablate.sampling.vllm import check_installed

        check_installed()
    _check_context(run, dataset, evaluated=False)
    _check_prompts(run, dataset, ["train"])
    return [f"{what}: {count:,}" for what, count in dataset.cleaning().items()]


def _check_prompts(run: RunConfig, dataset: PreferenceDataset, wanted: list[str]) -> None:
    """Every split that is needed has prompts, and so has every round."""
    for split in wanted:
        if not dataset.num_prompts(split):
            share = (
                f" (raise dataset.{split}_share)" if isinstance(run.dataset, GivenConfig) else ""
            )
            raise DataError(
                f"dataset={run.dataset.name} has no prompts in the split '{split}'{share}"
            )
    rounds = round_prompts(run.collection, dataset.num_prompts("train"))
    if min(last - first + old for first, last, old in rounds) < 1:
        raise DataError(
            f"collection.round_prompts={run.collection.round_prompts} of "
            f"{dataset.num_prompts('train')} train prompts leaves a round without any"
        )


def _check_side_texts(run: RunConfig, dataset: PreferenceDataset) -> None:
    """Objectives that learn a gold response or a rationale need one for every training prompt."""
    needs = run.objective.needs
    total = dataset.num_prompts("train")
    for needed, column, found in (
        (needs.gold, "gold", dataset.gold),
        (needs.rationale, "rationale", dataset.rationale),
    ):
        if needed and len(found("train")) < total:
            raise DataError(
                f"objective={run.objective.name} needs a {column} for every training prompt, but "
                f"{total - len(found('train'))} of {total} have none. Fill the column `{column}` "
                "of the file, or leave those rows out"
            )


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


def _check_context(run: RunConfig, dataset: PreferenceDataset, evaluated: bool = True) -> None:
    """Compares the longest sequences with the model's context, before any stage starts."""
    policy = run.dataset.lengths if isinstance(run.dataset, GivenConfig) else None
    if policy is not None and policy.over_long != "error":
        return
    of_prompt, of_response, limit = _token_counters(run, dataset)
    limits = [limit] if policy is None else [limit, policy.max_tokens]
    limit = min((some for some in limits if some is not None), default=None)
    if limit is None:
        return
    # the prompts of a world are alike: a few of each split tell their length
    some = None if dataset.has_responses else MEASURED
    prompts = [prompt for split in SPLITS for prompt in dataset.prompts(split, limit=some)]
    longest = max((of_prompt(p.conversation) for p in _longest(prompts, _size)), default=0)
    room = run.evaluation.sampling.max_new_tokens if evaluated else 0
    if not dataset.has_responses or run.collection.fresh:
        own = run.collection.sampling or run.dataset.pool.sampling
        room = max(room, own.max_new_tokens, run.dataset.pool.sampling.max_new_tokens)
    _refuse_long(longest + room, limit, f"the longest prompt with {room} new tokens")
    if dataset.has_responses:
        by_id = {prompt.id: prompt for prompt in prompts}
        given = [
            item for split in ("train", "reward", "judge") for item in dataset.responses(split)
        ]
        pairs = _longest(
            [(by_id[item.prompt_id], item.text) for item in given],
            lambda pair: _size(pair[0]) + len(pair[1]),
        )
        longest = max((of_prompt(p.conversation) + of_response(r) for p, r in pairs), default=0)
        _refuse_long(longest, limit, "the longest prompt with its response")


def _token_counters(
    run: RunConfig, dataset: PreferenceDataset
) -> tuple[Callable[[Conversation], int], Callable[[str], int], int | None]:
    """Tokens of a prompt and of a response with their special tokens, and the context length."""
    model = run.base_model
    if model.kind == "scratch":
        # the tokenizers that ablate builds: one token per word or per byte, two around a prompt
        # and one after a response
        words = dataset.vocabulary is not None

        def size(text: str) -> int:
            return len(text.split() if words else text.encode())

        return (
            lambda prompt: size(render(prompt)) + 2,
            lambda text: size(text) + 1,
            model.context_length,
        )

    from ablate.models.loading import context_of_path
    from ablate.models.tokenizer import encode_prompt, encode_response, load_tokenizer

    assert model.path is not None
    path = str(Path(model.path).expanduser())
    own = context_of_path(path, model.revision, model.trust_remote_code)
    tokenizer = load_tokenizer(path, model.revision, model.trust_remote_code, model.thinking)
    limits = [limit for limit in (own, model.context_length) if limit is not None]
    return (
        lambda prompt: len(encode_prompt(tokenizer, prompt)),
        lambda text: len(encode_response(tokenizer, text)),
        min(limits, default=None),
    )


def _longest(items: list[Any], size: Callable[[Any], int]) -> list[Any]:
    """Those with most characters: among them is the one with most tokens, or nearly so."""
    return sorted(items, key=size, reverse=True)[:MEASURED]


def _size(prompt: Prompt) -> int:
    return len(prompt.text)


def _refuse_long(tokens: int, limit: int, what: str) -> None:
    if tokens > limit:
        raise ModelError(
            f"{what} has {tokens} tokens, but the model's context (or dataset.lengths.max_tokens) "
            f"holds {limit}. Shorten the texts or have them left out "
            "(dataset.lengths.over_long=drop), lower max_new_tokens (dataset.pool.sampling, "
            "evaluation.sampling), or take a model with a longer context"
        )


def _check_counts(run: RunConfig, dataset: PreferenceDataset) -> list[str]:
    """Ragged groups are kept and told; nowhere K responses is a mistake."""
    k = run.num_responses.k
    counts = dataset.response_counts("train")
    short = [count for count in counts.values() if count < k]
    if len(short) == len(counts):
        raise DataError(
            f"num_responses is {k}, but all {len(counts)} training prompts have fewer responses "
            f"(the most: {max(short)}). Use num_responses.k={max(short)} or less"
        )
    if not short:
        return []
    return [
        f"{len(short)} of {len(counts)} training prompts have fewer than num_responses={k} "
        f"responses (the least: {min(short)}); they are kept as they are"
    ]


#: datasets that this process has opened, by their configuration
_OPENED: dict[str, PreferenceDataset] = {}
_MOST_OPENED = 4


def _open(config: DatasetConfig) -> PreferenceDataset:
    key = config.model_dump_json()
    if key not in _OPENED:
        while len(_OPENED) >= _MOST_OPENED:
            _OPENED.pop(next(iter(_OPENED)))
        _OPENED[key] = open_dataset(config)
    return _OPENED[key]
