"""The over-optimisation curve: what training reward and judge say of the policy in training."""

import math
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.config.dataset import Sampling
from ablate.datasets import open_dataset
from ablate.evaluation.answers import answer_prompts, fitting, held_out_prompts
from ablate.models.adapted import AdaptersOff
from ablate.models.logps import token_kl
from ablate.rewards.scorers import LOGP_BATCH_TOKENS
from ablate.stages.common import MODEL, as_lists, load_policy, open_fitter
from ablate.stages.context import Context
from ablate.stages.evaluation import opponents, training_reward_of
from ablate.stages.judging import open_planned
from ablate.training.watch import Curve


def curve_of(
    context: Context,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reference: PreTrainedModel | None,
) -> Curve | None:
    """The curve that a policy stage was asked for, or None.

    A point holds, over the same held-out prompts with the same noise every time: `judge_reward`,
    `training_reward` (on training's scale; absent where training sees no scores of new answers),
    `kl` (KL(π ‖ SFT) in nats per response, exact at every token of the sampled responses),
    `length` (tokens), `truncated` (share without an end), and how many `answers` of how many
    `tokens` in all were sampled.
    """
    params = context.params.get("curve")
    if params is None:
        return None
    dataset = open_dataset(context.run.dataset)
    sampling = Sampling.model_validate(params["sampling"])
    prompts = fitting(
        held_out_prompts(dataset, params["splits"]),
        open_fitter(params, model, tokenizer),
        sampling.max_new_tokens,
    )
    splits = list(params["splits"])
    judge = open_planned(context.run, dataset, splits, params["judge"], context.inputs)
    others = opponents(context)
    sft = reference if fixed_at_sft(context) else None
    # what adapters were put on is still there, beneath them
    beneath = context.run.base_model.lora and context.inputs["init"] == context.inputs["sft"]
    if sft is None and not beneath:
        sft, _ = load_policy(context.inputs["sft"] / MODEL, context.run)
    reward = training_reward_of(context, splits)

    def measure(policy: PreTrainedModel) -> dict[str, float]:
        answers = answer_prompts(
            policy,
            tokenizer,
            prompts,
            samples_per_prompt=params["samples_per_prompt"],
            sampler=context.run.sampler,
            sampling=sampling,
            seed=params["seed"],
            judge=judge,
            opponents=others,
        )
        items = [
            (prompt, [ids])
            for prompt, ids in zip(
                as_lists(answers["prompt_ids"]), as_lists(answers["response_ids"]), strict=True
            )
        ]
        base: Any = AdaptersOff(policy) if sft is None else sft
        compared = token_kl(policy, base, tokenizer, items, LOGP_BATCH_TOKENS)
        point: dict[str, Any] = {"judge_reward": answers["judge_score"].mean()}
        if reward is not None:
            point["training_reward"] = reward(answers).mean()
        point |= {
            "kl": math.fsum(row[0].kl for row in compared) / len(compared),
            "length": answers["num_tokens"].mean(),
            "truncated": answers["truncated"].mean(),
            "answers": len(answers),
            "tokens": answers["num_tokens"].sum(),
        }
        return {name: float(value) for name, value in point.items()}

    return Curve(params["every"], measure)


def fixed_at_sft(context: Context) -> bool:
    """Whether the reference of the training is the SFT policy that the curve compares with."""
    inputs = context.inputs
    return inputs.get("reference", inputs["init"]) == inputs["sft"]
