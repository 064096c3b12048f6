"""Stage `select`: the checkpoint with the best mean reward on the valid prompts."""

from ablate.config.dataset import Sampling
from ablate.datasets import open_dataset
from ablate.evaluation.answers import answer_prompts, fitting, held_out_prompts
from ablate.sampling.responses import Count
from ablate.stages.common import ANSWERS, RESULT, drawn_from, load_policy, open_fitter, within
from ablate.stages.context import Context
from ablate.stages.evaluation import asked, opponents, training_reward
from ablate.stages.judging import judge_of
from ablate.store.files import read_json, write_json
from ablate.store.tables import write_table


def run(context: Context) -> None:
    """Writes answers.parquet and result.json: the chosen step, the mean reward of every checkpoint.

    The reward is the judge's, or the training reward where `params` describe one. The answers are
    those of the chosen checkpoint: the evaluation, which asks the same of it, reads them.

    Ties go to the earlier checkpoint, which has moved less from the reference.
    """
    params = context.params
    dataset = open_dataset(context.run.dataset)
    prompts = held_out_prompts(dataset, params["splits"])
    judge = judge_of(context, dataset, list(params["splits"]))
    others = opponents(context)
    steps = read_json(context.inputs["policy"] / RESULT)["checkpoints"]
    sampling = Sampling.model_validate(params["sampling"])
    curve: dict[int, float] = {}
    best: int | None = None
    generated = Count()
    for number, step in enumerate(steps):
        model, tokenizer = load_policy(context.inputs["policy"] / f"step-{step}", context.run)
        answers = answer_prompts(
            model,
            tokenizer,
            fitting(prompts, open_fitter(params, model, tokenizer), sampling.max_new_tokens),
            samples_per_prompt=params["samples_per_prompt"],
            sampler=context.run.sampler,
            sampling=sampling,
            seed=params["seed"],
            judge=judge,
            opponents=others,
            report=within(context.report, number / len(steps), (number + 1) / len(steps)),
        )
        generated.add(len(answers), int(answers["num_tokens"].sum()))
        values = answers["judge_score"].to_numpy()
        if "reward" in params:
            values = training_reward(context, answers, list(params["splits"]))
            assert values is not None
        curve[step] = float(values.mean())
        if best is None or curve[step] > curve[best]:
            best, kept = step, answers
    write_table(kept, context.out / ANSWERS)
    write_json(
        context.out / RESULT,
        {
            "step": best,
            "by": "training_reward" if "reward" in params else "judge",
            "asked": asked(params),
            "valid_reward": {str(step): value for step, value in curve.items()},
            "generated": drawn_from(model, generated),
            "judging": judge.tally.plain(),
        },
    )
