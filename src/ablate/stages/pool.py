"""Stage `pool`: N responses per prompt, sampled from a policy or given with the dataset."""

import time
from typing import Any

import numpy as np
import pandas as pd

from ablate.config.dataset import Pool
from ablate.datasets import Prompt, open_dataset
from ablate.models.loading import check_lengths, context_length
from ablate.models.tokenizer import (
    decode_response,
    encode_prompt,
    encode_response,
    stop_token_ids,
)
from ablate.sampling.responses import statistics
from ablate.sampling.sampler import open_sampler
from ablate.stages.common import POOL, RESULT, load_policy, model_of
from ablate.stages.context import Context
from ablate.store.files import write_json
from ablate.store.tables import write_table


def run(context: Context) -> None:
    """Writes pool.parquet, a row per prompt and response with the exact tokens, and result.json:
    statistics of the pool, and what drew it."""
    started = time.monotonic()
    model, tokenizer = load_policy(model_of(context.inputs, "policy"), context.run)
    dataset = open_dataset(context.run.dataset)
    split = context.params["split"]
    prompts = dataset.prompts(split, context.params.get("limit"))
    prompts = part_of(prompts, context.params.get("part"))
    texts = {prompt.id: prompt.text for prompt in prompts}
    ids = {name: encode_prompt(tokenizer, text) for name, text in texts.items()}
    drawn_by: dict[str, str] | None = None
    if "pool" not in context.params:
        given = [item for item in dataset.responses(split) if item.prompt_id in texts]
        rows = [
            (item.prompt_id, item.index, item.text, encode_response(tokenizer, item.text), True)
            for item in given
        ]
        longest = "response with its prompt"
        check_lengths((len(ids[r[0]]) + len(r[3]) for r in rows), context_length(model), longest)
    else:
        pool = Pool.model_validate(context.params["pool"])
        room = pool.sampling.max_new_tokens
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
        rows = [
            (
                item.prompt_id,
                item.index,
                decode_response(tokenizer, item.ids),
                item.ids,
                item.finished,
            )
            for item in sampled
        ]
    frame = pd.DataFrame(
        {
            "prompt_id": [row[0] for row in rows],
            "prompt": [texts[row[0]] for row in rows],
            "prompt_ids": [ids[row[0]] for row in rows],
            "index": [row[1] for row in rows],
            "response": [row[2] for row in rows],
            "response_ids": [row[3] for row in rows],
            "finished": [row[4] for row in rows],
        }
    )
    write_table(frame, context.out / POOL)
    seconds = time.monotonic() - started
    write_json(
        context.out / RESULT,
        {
            **statistics(
                [row[0] for row in rows],
                [row[3] for row in rows],
                [row[4] for row in rows],
                stop_token_ids(tokenizer),
            ),
            "sampler": drawn_by,
            "seconds": seconds,
        },
    )


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
