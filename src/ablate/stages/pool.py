"""Stage `pool`: N responses per prompt, sampled from a policy or given with the dataset."""

import time
from typing import Any

import numpy as np
import pandas as pd

from ablate.config.dataset import Pool
from ablate.datasets import GivenResponse, PreferenceDataset, Prompt, open_dataset
from ablate.datasets.chat import Conversation, why_better
from ablate.errors import DataError
from ablate.evaluation.answers import add_messages, fitting, shortened
from ablate.models.fit import Fitter
from ablate.models.loading import check_lengths, context_length
from ablate.models.tokenizer import decode_response, encode_prompt, stop_token_ids
from ablate.sampling.responses import statistics
from ablate.sampling.sampler import open_sampler
from ablate.stages.common import (
    POOL,
    RESULT,
    counted,
    load_policy,
    model_of,
    open_fitter,
)
from ablate.stages.context import Context
from ablate.store.files import write_json
from ablate.store.tables import write_table

COLUMNS = [
    "prompt_id",
    "prompt",
    "prompt_ids",
    "index",
    "response",
    "response_ids",
    "finished",
]
#: the columns of one response
Row = tuple[str, str, list[int], int, str, list[int], bool]


def run(context: Context) -> None:
    """Writes pool.parquet: a row per prompt and response, with the exact tokens.

    Where the dataset has them: `messages` (JSON) of prompts that are more than one message of a
    user, `gold_ids` of the prompt, `rationale_ids` with `rationale_prompt_ids`, the question that
    the rationale answers. result.json: statistics of the pool, what drew it, what was left out.
    """
    started = time.monotonic()
    model, tokenizer = load_policy(model_of(context.inputs, "policy"), context.run)
    dataset = open_dataset(context.run.dataset)
    split = context.params["split"]
    prompts = dataset.prompts(split, context.params.get("limit"))
    prompts = part_of(prompts, context.params.get("part"))
    fitter = open_fitter(context.params, model, tokenizer)
    drawn_by: dict[str, str] | None = None
    if "pool" in context.params:
        frame, used, drawn_by = _sampled(context, prompts, model, tokenizer, fitter)
    else:
        frame, used = _given(dataset, split, prompts, fitter)
        frame = _with_side_texts(frame, dataset, split, fitter)
    add_messages(frame, used)
    write_table(frame, context.out / POOL)
    seconds = time.monotonic() - started
    write_json(
        context.out / RESULT,
        {
            **statistics(
                frame["prompt_id"].tolist(),
                frame["response_ids"].tolist(),
                frame["finished"].tolist(),
                stop_token_ids(tokenizer),
            ),
            "sampler": drawn_by,
            "generated": counted(frame["response_ids"] if drawn_by else [], model),
            "data": {"origin": dataset.origin(), "counts": dataset.cleaning() | fitter.counts},
            "seconds": seconds,
        },
    )


def _given(
    dataset: PreferenceDataset, split: str, prompts: list[Prompt], fitter: Fitter
) -> tuple[pd.DataFrame, list[Prompt]]:
    """The responses that come with the dataset, and the prompts as they are used.

    Groups of which only one response fits are left out.
    """
    texts: dict[str, list[GivenResponse]] = {}
    for item in dataset.responses(split):
        texts.setdefault(item.prompt_id, []).append(item)
    rows: list[Row] = []
    used = []
    for prompt in prompts:
        given = texts[prompt.id]
        fitted = fitter.group(prompt.conversation, [item.text for item in given])
        if fitted is None:
            continue
        prompt = shortened(prompt, fitted.conversation)
        group: list[Row] = [
            (prompt.id, prompt.text, fitted.prompt_ids, item.index, item.text, *encoded)
            for item, encoded in zip(given, fitted.responses, strict=True)
            if encoded is not None
        ]
        if len(group) < 2:
            fitter.counts["prompts left with one response, left out"] += 1
            continue
        rows += group
        used.append(prompt)
    if not rows:
        raise DataError(
            f"no group of the split '{split}' fits into the model's context; "
            "raise dataset.lengths.max_tokens or take a model with a longer context"
        )
    return _frame(rows), used


def _with_side_texts(
    frame: pd.DataFrame, dataset: PreferenceDataset, split: str, fitter: Fitter
) -> pd.DataFrame:
    """The pool with the gold response and the rationale of each prompt that has them.

    Prompts with one that is too long are left out where the policy is to leave out or to cut.
    """
    conversations = {prompt.id: prompt.conversation for prompt in dataset.prompts(split)}
    gold, why = dataset.gold(split), dataset.rationale(split)
    if gold:
        asked = {name: (conversations[name], text) for name, text in gold.items()}
        frame = _with_ids(frame, "gold", asked, fitter)
    if why:
        best: dict[str, list[tuple[float, str]]] = {}
        for item in dataset.responses(split):
            best.setdefault(item.prompt_id, []).append((item.score, item.text))
        asked = {
            name: (why_better(conversations[name], max(best[name])[1], min(best[name])[1]), text)
            for name, text in why.items()
        }
        frame = _with_ids(frame, "rationale", asked, fitter)
    return frame


def _with_ids(
    frame: pd.DataFrame, name: str, asked: dict[str, tuple[Conversation, str]], fitter: Fitter
) -> pd.DataFrame:
    """Adds tokens of a text per prompt, and of the question before it where that is another."""
    ids: dict[str, list[int]] = {}
    questions: dict[str, list[int]] = {}
    too_long = []
    for key, (question, text) in asked.items():
        fitted = fitter.group(question, [text])
        if fitted is None or fitted.responses[0] is None or not fitted.responses[0][1]:
            too_long.append(key)
        else:
            questions[key], ids[key] = fitted.prompt_ids, fitted.responses[0][0]
    frame = frame[~frame["prompt_id"].isin(too_long)].reset_index(drop=True)
    frame[f"{name}_ids"] = [ids.get(key) for key in frame["prompt_id"]]
    if name != "gold":
        frame[f"{name}_prompt_ids"] = [questions.get(key) for key in frame["prompt_id"]]
    return frame


def _sampled(
    context: Context, prompts: list[Prompt], model: Any, tokenizer: Any, fitter: Fitter
) -> tuple[pd.DataFrame, list[Prompt], dict[str, str]]:
    """N responses per prompt from a policy, the prompts as they are used, and what drew them."""
    pool = Pool.model_validate(context.params["pool"])
    room = pool.sampling.max_new_tokens
    if "lengths" in context.params:
        prompts = fitting(prompts, fitter, room)
    ids = {prompt.id: encode_prompt(tokenizer, prompt.conversation) for prompt in prompts}
    check_lengths(
        (len(prompt) + room for prompt in ids.values()),
        context_length(model),
        "prompt with room for its answer",
    )
    with open_sampler(context.run.sampler, model, tokenizer) as sampler:
        sampled = sampler.draw(
            list(ids.items()),
            pool.num_responses,
            sampling=pool.sampling,
            seed=context.params["seed"],
            report=context.report,
        )
        drawn_by = sampler.described()
    texts = {prompt.id: prompt.text for prompt in prompts}
    frame = _frame(
        [
            (
                item.prompt_id,
                texts[item.prompt_id],
                ids[item.prompt_id],
                item.index,
                decode_response(tokenizer, item.ids),
                item.ids,
                item.finished,
            )
            for item in sampled
        ]
    )
    return frame, prompts, drawn_by


def part_of(prompts: list[Prompt], part: dict[str, Any] | None) -> list[Prompt]:
    """The prompts of one round: those from `first` up to `last`, and `old` of those before.

    The old ones depend on the round's number and the prompts before it alone, without a seed;
    None takes all prompts.
    """
    if part is None:
        return prompts
    draw = np.random.Generator(np.random.Philox(key=[0x01D, part["round"]]))
    old = sorted(draw.choice(part["first"], part["old"], replace=False)) if part["old"] else []
    return prompts[part["first"] : part["last"]] + [prompts[place] for place in old]


def _frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
