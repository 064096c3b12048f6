"""Answers of a policy to held-out prompts, as one table with the judge's scores."""

from collections.abc import Callable
from typing import Any, Literal

import pandas as pd

from ablate.config.dataset import Sampling
from ablate.config.sampler import SamplerConfig
from ablate.datasets.base import PreferenceDataset, Prompt
from ablate.evaluation.judges import Judge
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
        (no end token within the limit), judge_score (higher is better).
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    encoded = [(prompt.id, encode_prompt(tokenizer, prompt.text)) for prompt in prompts]
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


def answers_of(frame: pd.DataFrame) -> list[Answer]:
    """The rows of an answer table or of a pool as scorers and judges want them.

    A column `index` tells the places of a pool's responses, `opponent` what each is compared with.
    """
    stored, opposed = "index" in frame.columns, "opponent" in frame.columns
    return [
        Answer(
            row.prompt_id,
            row.prompt,
            list(row.prompt_ids),
            row.response,
            list(row.response_ids),
            index=int(row.index) if stored else None,
            opponent=row.opponent if opposed else None,
        )
        for row in frame.itertuples(index=False)
    ]
