"""Stage `pool`: N responses per prompt, sampled from the SFT policy or given with the dataset."""

import time
from typing import Any

import pandas as pd

from ablate.config.dataset import Pool
from ablate.datasets import GivenResponse, PreferenceDataset, Prompt, open_dataset
from ablate.errors import DataError
from ablate.evaluation.answers import add_messages
from ablate.models.fit import Fitter
from ablate.models.loading import check_lengths, context_length
from ablate.models.tokenizer import decode_response, encode_prompt, encode_response
from ablate.sampling.sample import sample_responses
from ablate.stages.common import MODEL, POOL, RESULT, load_policy, open_fitter
from ablate.stages.context import Context
from ablate.store.files import write_json
from ablate.store.tables import write_table

SAMPLE_BATCH = 256
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
    user, `gold_ids` and `rationale_ids` of the prompt. result.json tells what was left out.
    """
    started = time.monotonic()
    model, tokenizer = load_policy(context.inputs["policy"] / MODEL, context.run)
    dataset = open_dataset(context.run.dataset)
    split = context.params["split"]
    prompts = dataset.prompts(split)
    fitter = open_fitter(context.params, model, tokenizer)
    make = _given if dataset.has_responses else _sampled
    frame = make(context, dataset, prompts, model, tokenizer, fitter)
    add_messages(frame, prompts)
    for name, texts in (("gold", dataset.gold(split)), ("rationale", dataset.rationale(split))):
        if texts:
            ids = {key: encode_response(tokenizer, text) for key, text in texts.items()}
            frame[f"{name}_ids"] = [ids.get(key) for key in frame["prompt_id"]]
    write_table(frame, context.out / POOL)
    seconds = time.monotonic() - started
    write_json(
        context.out / RESULT,
        {
            "prompts": int(frame["prompt_id"].nunique()),
            "responses": len(frame),
            "tokens": int(frame["response_ids"].map(len).sum()),
            "truncated": float((~frame["finished"]).mean()),
            "data": {"origin": dataset.origin(), "counts": dataset.cleaning() | fitter.counts},
            "seconds": seconds,
        },
    )


def _given(
    context: Context,
    dataset: PreferenceDataset,
    prompts: list[Prompt],
    model: Any,
    tokenizer: Any,
    fitter: Fitter,
) -> pd.DataFrame:
    """The responses that come with the dataset; groups that fit with fewer than two are left out."""
    texts: dict[str, list[GivenResponse]] = {}
    for item in dataset.responses(context.params["split"]):
        texts.setdefault(item.prompt_id, []).append(item)
    rows: list[Row] = []
    for prompt in prompts:
        fitted = fitter.group(prompt.conversation, [item.text for item in texts[prompt.id]])
        if fitted is None:
            continue
        pairs = zip(texts[prompt.id], fitted.responses, strict=True)
        group = [
            (prompt.id, prompt.text, fitted.prompt_ids, item.index, item.text, *encoded)
            for item, encoded in pairs
            if encoded is not None
        ]
        if len(group) < 2:
            fitter.counts["prompts left with one response, left out"] += 1
            continue
        rows += group
    if not rows:
        raise DataError(
            f"no group of the split '{context.params['split']}' fits into the model's context; "
            "raise dataset.lengths.max_tokens or take a model with a longer context"
        )
    return _frame(rows)


def _sampled(
    context: Context,
    dataset: PreferenceDataset,
    prompts: list[Prompt],
    model: Any,
    tokenizer: Any,
    fitter: Fitter,
) -> pd.DataFrame:
    """N responses per prompt from the SFT policy."""
    pool = Pool.model_validate(context.params["pool"])
    ids = {prompt.id: encode_prompt(tokenizer, prompt.conversation) for prompt in prompts}
    room = pool.sampling.max_new_tokens
    check_lengths(
        (len(prompt) + room for prompt in ids.values()),
        context_length(model),
        "prompt with room for its answer",
    )
    sampled = sample_responses(
        model,
        tokenizer,
        list(ids.items()),
        pool.num_responses,
        sampling=pool.sampling,
        seed=context.params["seed"],
        batch_size=SAMPLE_BATCH,
        report=context.report,
    )
    texts = {prompt.id: prompt.text for prompt in prompts}
    return _frame(
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


def _frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
