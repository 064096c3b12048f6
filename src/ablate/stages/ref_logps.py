"""Stage `ref_logps`: log-probabilities of a pool's responses under the reference policy."""

import pandas as pd

from ablate.models.logps import response_token_logps
from ablate.rewards.scorers import LOGP_BATCH_TOKENS
from ablate.stages.common import REF_LOGPS, as_lists, grouped, load_policy, model_of, read_pool
from ablate.stages.context import Context
from ablate.store.tables import write_table


def run(context: Context) -> None:
    """Writes ref_logps.parquet: prompt_id, index, logp (nats, summed over the response).

    With `by_token`, for objectives that weigh tokens, also token_logps: a list per response.
    """
    pool = read_pool(context.inputs["pool"])
    model, tokenizer = load_policy(model_of(context.inputs, "reference"), context.run)
    groups = list(grouped(pool))
    items = [
        (list(rows["prompt_ids"].iloc[0]), as_lists(rows["response_ids"])) for _, rows in groups
    ]
    logps = response_token_logps(model, tokenizer, items, LOGP_BATCH_TOKENS)
    table = pd.concat([rows[["prompt_id", "index"]] for _, rows in groups], ignore_index=True)
    table["logp"] = [sum(tokens) for row in logps for tokens in row]
    if "by_token" in context.params:
        table["token_logps"] = [tokens for row in logps for tokens in row]
    write_table(table, context.out / REF_LOGPS)
