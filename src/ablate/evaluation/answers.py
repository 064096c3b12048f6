"""Answers of a policy to held-out prompts, as one table with the judge's scores."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from ablate.config.dataset import Sampling
from ablate.config.sampler import SamplerConfig
from ablate.datasets import chat
from ablate.datasets.base import PreferenceDataset, Prompt
from ablate.errors import DataError
from ablate.evaluation.judges import Judge
from ablate.models.fit import Fitter
from ablate.models.tokenizer import decode_response, encode_prompt
from ablate.rewards.table import Answer
from ablate.sampling.sampler import open_sampler

#: what each answer is compared with, by split, prompt_id and sample; or with itself
Opponents = dict[tuple[str, str, int], str] | Literal["itself"]


def answer_prompts(
    model: Any,
    tokenizer: Any,
    prompts: list[Prompt],
    *,
    samples_per_prompt: int,
    sampler: SamplerConfig,
    sampling: Sampling,
    seed: int,
    judge: Judge,
    opponents: Opponents | None = None,
    report: Callable[[int, int, dict[str, float]], None] | None = None,
) -> pd.DataFrame:
    """Samples answers and has them judged.

    Args:
        opponents: for judges that compare two.

    Returns:
        One row per prompt and sample, in the prompts' order: split, prompt_id, sample, prompt,
        response (text), prompt_ids, response_ids, num_tokens (end token included), truncated
        (no end token within the limit), judge_score (higher is better); messages (JSON, see
        `ablate.datasets.chat`) where a prompt is more than one message of a user.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    encoded = [(prompt.id, encode_prompt(tokenizer, prompt.conversation)) for prompt in prompts]
    ids = dict(encoded)
    with open_sampler(sampler, model, tokenizer) as source:
        sampled = source.draw(
            encoded, samples_per_prompt, sampling=sampling, seed=seed, report=report
        )
    frame = pd.DataFrame(
        {
            "split": [by_id[item.prompt_id].split for item in sampled],
            "prompt_id": [item.prompt_id for item in sampled],
            "sample": [item.index for item in sampled],
            "prompt": [by_id[item.prompt_id].text for item in sampled],
            "response": [decode_response(tokenizer, item.ids) for item in sampled],
            "prompt_ids": [ids[item.prompt_id] for item in sampled],
            "response_ids": [item.ids for item in sampled],
            "num_tokens": [len(item.ids) for item in sampled],
            "truncated": [not item.finished for item in sampled],
        }
    )
    add_messages(frame, prompts)
    if opponents == "itself":
        frame["opponent"] = frame["response"]
    elif opponents is not None:
        keys = zip(frame["split"], frame["prompt_id"], frame["sample"], strict=True)
        frame["opponent"] = [opponents[key] for key in keys]
    frame["judge_score"] = judge.score(answers_of(frame))
    return frame


def held_out_prompts(dataset: PreferenceDataset, splits: dict[str, Any]) -> list[Prompt]:
    """The first `num` prompts of each split, splits in their order."""
    return [
        prompt
        for split, entry in splits.items()
        for prompt in dataset.prompts(split, limit=entry["num"])
    ]


def fitting(prompts: list[Prompt], fitter: Fitter, room: int) -> list[Prompt]:
    """The prompts that leave `room` for an answer, shortened where the policy says so.

    Raises:
        DataError: none is left of a split.
    """
    kept = []
    for prompt in prompts:
        fitted = fitter.prompt(prompt.conversation, room)
        if fitted is None:
            continue
        kept.append(shortened(prompt, fitted[0]))
    lost = {prompt.split for prompt in prompts} - {prompt.split for prompt in kept}
    if lost:
        raise DataError(
            f"no prompt of the split '{min(lost)}' leaves room for an answer of {room} tokens; "
            "lower evaluation.sampling.max_new_tokens or raise dataset.lengths.max_prompt_tokens"
        )
    return kept


def shortened(prompt: Prompt, conversation: chat.Conversation) -> Prompt:
    """The prompt with the turns that were kept of it; itself where they are all."""
    if conversation is prompt.conversation:
        return prompt
    messages = tuple(chat.as_messages(conversation))
    return replace(prompt, text=chat.render(messages), messages=messages)


def add_messages(frame: pd.DataFrame, prompts: Iterable[Prompt]) -> None:
    """Adds the column `messages` to a table with prompt ids, if any prompt has messages."""
    known = {p.id: chat.dump(p.messages) for p in prompts if p.messages is not None}
    if known:
        frame["messages"] = [known.get(name) for name in frame["prompt_id"]]


def answers_of(frame: pd.DataFrame) -> list[Answer]:
    """The rows of an answer table or of a pool as scorers and judges want them.

    A column `index` tells the places of a pool's responses, `opponent` what each is compared with,
    `messages` the prompts that are more than one message of a user.
    """
    stored, opposed = "index" in frame.columns, "opponent" in frame.columns
    messages = frame["messages"] if "messages" in frame.columns else [None] * len(frame)
    return [
        Answer(
            row.prompt_id,
            row.prompt,
            list(row.prompt_ids),
            row.response,
            list(row.response_ids),
            index=int(row.index) if stored else None,
            opponent=row.opponent if opposed else None,
            messages=chat.load(said) if isinstance(said, str) else None,
        )
        for row, said in zip(frame.itertuples(index=False), messages, strict=True)
    ]
