"""Stage `answers`: the SFT policy's answers to the held-out prompts; the baseline of win rates."""

from ablate.stages.common import ANSWERS, MODEL, RESULT, counted, load_policy
from ablate.stages.context import Context
from ablate.stages.evaluation import held_out_answers
from ablate.store.files import write_json
from ablate.store.tables import write_table


def run(context: Context) -> None:
    """Writes answers.parquet, a row per prompt and sample, and result.json."""
    model, tokenizer = load_policy(context.inputs["policy"] / MODEL, context.run)
    answers, tally = held_out_answers(context, model, tokenizer, context.report)
    write_table(answers, context.out / ANSWERS)
    write_json(
        context.out / RESULT,
        {"judging": tally.plain(), "generated": counted(answers["response_ids"], model)},
    )
