"""Stage `evaluation`: the policy's answers and labelled pairs, compared with SFT and reference."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.config.dataset import Labels, Sampling
from ablate.config.run import RunConfig
from ablate.datasets import label_models, open_dataset
from ablate.evaluation.answers import (
    Opponents,
    answer_prompts,
    answers_of,
    fitting,
    held_out_prompts,
)
from ablate.evaluation.verdicts import Tally
from ablate.metrics import summarize, summarize_pairs
from ablate.models.adapted import ADAPTER
from ablate.models.logps import token_kl
from ablate.rewards.scorers import LOGP_BATCH_TOKENS
from ablate.stages.common import (
    ANSWERS,
    MODEL,
    RESULT,
    as_lists,
    counted,
    labelled,
    load_pair,
    load_policy,
    model_of,
    open_fitter,
    read_pool,
    within,
)
from ablate.stages.context import Context, Report
from ablate.stages.judging import compares_two, judge_of
from ablate.stages.pairs import labelled_pairs, with_logps
from ablate.stages.reward_source import open_reward
from ablate.store.files import read_json, write_json
from ablate.store.tables import read_table, write_table

EVAL = "eval.parquet"
PAIRS = "pairs.parquet"
KEYS = ["split", "prompt_id", "sample"]
#: parameters of a stage that answers held-out prompts which decide the answers and their scores
ANSWERING = (
    "splits",
    "samples_per_prompt",
    "sampling",
    "seed",
    "judge",
    "sampler",
    "lengths",
)
#: columns kept in the record; token ids stay in the stage
KEPT = [
    "split",
    "prompt_id",
    "sample",
    "prompt",
    "response",
    "num_tokens",
    "num_chars",
    "truncated",
    "judge_score",
    "baseline_score",
    "baseline_response",
    "logp_policy",
    "logp_ref",
    "kl",
    "kl_reference",
]


def run(context: Context) -> None:
    """Writes eval.parquet (a row per prompt and sample), pairs.parquet and result.json.

    eval.parquet holds `kl` to the SFT policy and `kl_reference` to the reference of the last round,
    train_reward and baseline_train_reward (of the SFT policy's answer) where training saw scores,
    and with annotators utility_<group> and baseline_utility_<group>. pairs.parquet holds labelled
    pairs of train and test with their log-probs under the policy and that reference.
    """
    started = time.monotonic()
    step = chosen_step(context)
    folder = context.inputs["policy"] / f"step-{step}"
    model, tokenizer = load_policy(folder, context.run)
    known = known_answers(context)
    answers, tally = held_out_answers(
        context, model, tokenizer, within(context.report, 0.0, 0.7), known
    )
    generated = counted(answers["response_ids"].iloc[len(known) :], model)
    start = context.inputs["reference"] / MODEL
    if adapts_reference(context.run, folder):
        # one copy of the base weights for both; the merged ones, which answered, are given back
        del model
        model, sft, _ = load_pair(folder, start, context.run)
    else:
        sft, _ = load_policy(start, context.run)
    reference = sft
    if "trained_from" in context.inputs:
        reference, _ = load_policy(model_of(context.inputs, "trained_from"), context.run)
    items = [
        (prompt, [response])
        for prompt, response in zip(
            as_lists(answers["prompt_ids"]), as_lists(answers["response_ids"]), strict=True
        )
    ]
    compared = token_kl(model, sft, tokenizer, items, LOGP_BATCH_TOKENS)
    answers["logp_policy"] = [row[0].logp_policy for row in compared]
    answers["logp_ref"] = [row[0].logp_reference for row in compared]
    answers["kl"] = [row[0].kl for row in compared]
    if reference is not sft:
        compared = token_kl(model, reference, tokenizer, items, LOGP_BATCH_TOKENS)
    answers["kl_reference"] = [row[0].kl for row in compared]
    context.report(1, 1, {})
    answers["num_chars"] = answers["response"].str.len()
    baseline = read_table(context.inputs["baseline"] / ANSWERS)
    answers = beside(answers, baseline)
    added = {**_training_rewards(context, answers, baseline), **_utilities(context, answers)}
    table = answers[KEPT].assign(**added)
    write_table(table, context.out / EVAL)
    metrics = summarize(_arrays(table))
    if "num_pairs" in context.params:
        pairs = labelled_pairs(context)
        if len(pairs):
            pairs = with_logps(pairs, model, reference, tokenizer)
            write_table(pairs, context.out / PAIRS)
            metrics |= summarize_pairs(_arrays(pairs))
    write_json(
        context.out / RESULT,
        {
            "step": step,
            "metrics": metrics,
            "seconds": time.monotonic() - started,
            "generated": generated,
            "judging": tally.plain(),
        },
    )


def adapts_reference(run: RunConfig, folder: Path) -> bool:
    """Whether a checkpoint is the SFT policy with adapters, so that one copy can serve both.

    Adapters of a later round lie on those of the round before, which are merged by then.
    """
    from_sft = run.collection.rounds == 1 or run.collection.init == "sft"
    return run.base_model.lora is not None and from_sft and (folder / ADAPTER).is_dir()


def _arrays(table: pd.DataFrame) -> dict[str, np.ndarray]:
    return {str(name): table[name].to_numpy() for name in table.columns}


def chosen_step(context: Context) -> int:
    """The checkpoint that is evaluated: the selected one, else the last."""
    if "select" in context.inputs:
        return int(read_json(context.inputs["select"] / RESULT)["step"])
    return int(read_json(context.inputs["policy"] / RESULT)["last"])


def asked(params: dict[str, Any]) -> dict[str, Any]:
    """Of the parameters of a stage that answers: what decides the answers and their scores."""
    return {key: value for key, value in params.items() if key in ANSWERING}


def known_answers(context: Context) -> pd.DataFrame:
    """The chosen checkpoint's answers to the valid prompts, where the choice asked just the same.

    Without rows where nothing was chosen, or by an ablate that kept no answers.
    """
    folder = context.inputs.get("select")
    if folder is not None and (folder / ANSWERS).is_file():
        before = read_json(folder / RESULT)["asked"]
        splits = dict(list(context.params["splits"].items())[:1])
        if before == asked({**context.params, "splits": splits}):
            return read_table(folder / ANSWERS)
    return pd.DataFrame({"split": []})


def held_out_answers(
    context: Context,
    model: Any,
    tokenizer: Any,
    report: Report,
    known: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, Tally]:
    """Answers of a model to the stage's splits, judged, and what the judging took.

    Args:
        known: judged answers to the first splits, which are not asked for again.
    """
    params = context.params
    dataset = open_dataset(context.run.dataset)
    judge = judge_of(context, dataset, list(params["splits"]))
    sampling = Sampling.model_validate(params["sampling"])
    done = set() if known is None else set(known["split"])
    splits = {name: entry for name, entry in params["splits"].items() if name not in done}
    if known is not None and not splits:
        return known, judge.tally
    prompts = held_out_prompts(dataset, splits)
    answers = answer_prompts(
        model,
        tokenizer,
        fitting(prompts, open_fitter(params, model, tokenizer), sampling.max_new_tokens),
        samples_per_prompt=params["samples_per_prompt"],
        sampler=context.run.sampler,
        sampling=sampling,
        seed=params["seed"],
        judge=judge,
        opponents=opponents(context),
        report=report,
    )
    if done:
        answers = pd.concat([known, answers], ignore_index=True)
    return answers, judge.tally


def opponents(context: Context) -> Opponents | None:
    """For a judge that compares two: what each answer is compared with.

    The SFT policy's answer to the same prompt, sampled with the same noise; that answer itself is
    compared with its like, which is a draw. None for judges that give marks.
    """
    if not compares_two(context.run):
        return None
    if "baseline" not in context.inputs:
        return "itself"
    baseline = read_table(context.inputs["baseline"] / ANSWERS)
    return {(row.split, row.prompt_id, row.sample): row.response for row in baseline.itertuples()}


def beside(answers: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Answers with the SFT policy's answer to the same prompt, sampled with the same noise."""
    other = baseline[[*KEYS, "judge_score", "response"]].rename(
        columns={"judge_score": "baseline_score", "response": "baseline_response"}
    )
    return answers.merge(other, on=KEYS, how="left", validate="one_to_one")


def training_reward(
    context: Context, answers: pd.DataFrame, splits: Sequence[str]
) -> np.ndarray | None:
    """What the training reward says of the answers, see `training_reward_of`."""
    reward = training_reward_of(context, splits)
    return None if reward is None else reward(answers)


def _training_rewards(
    context: Context, answers: pd.DataFrame, baseline: pd.DataFrame
) -> dict[str, Any]:
    """The training reward of the answers and of the SFT policy's, where there is one."""
    reward = training_reward_of(context, list(context.params["splits"]))
    if reward is None:
        return {}
    of_sft = baseline[KEYS].assign(baseline_train_reward=reward(baseline))
    beside_it = answers[KEYS].merge(of_sft, on=KEYS, how="left", validate="one_to_one")
    return {
        "train_reward": reward(answers),
        "baseline_train_reward": beside_it["baseline_train_reward"].to_numpy(),
    }


def _utilities(context: Context, answers: pd.DataFrame) -> dict[str, np.ndarray]:
    """What each group of annotators gets from an answer and from the SFT policy's to its prompt.

    In the units of the labels that training saw: those of its pool's length and score.
    """
    if "annotators" not in context.params:
        return {}
    model = context.params["annotators"]
    rows = labelled(read_pool(context.inputs["train_pool"]), context.inputs["train_labels"])
    dataset = open_dataset(context.run.dataset)
    result = {}
    for prefix, text, score in (
        ("", "response", "judge_score"),
        ("baseline_", "baseline_response", "baseline_score"),
    ):
        count = len(answers)
        made = label_models.label(
            Labels.model_validate(model["model"]),
            model["seed"],
            [*rows["prompt_id"], *answers["prompt_id"]],
            # beyond the responses that set the units
            [*rows["index"], *(label_models.REFERENCE + answers["sample"])],
            [*rows["response"], *answers[text]],
            np.concatenate([rows["clean"], answers[score]]).astype(float),
            dataset.nuisance_words,
        )
        for name, utility in made.utilities.items():
            result[f"{prefix}utility_{name}"] = utility[-count:]
    return result


def training_reward_of(
    context: Context, splits: Sequence[str]
) -> Callable[[pd.DataFrame], np.ndarray] | None:
    """What the training reward says of judged answers, on the scale that training used.

    None where training saw only an order, comparisons with the prompt's other responses, or scores
    that came with the data: these say nothing of an answer alone. For `reward=gold` by the judge
    it is the judge's score at hand.
    """
    params = context.params["reward"]
    if not _speaks_alone(params):
        return None
    reward = open_reward(context, splits)

    def alone(answers: pd.DataFrame) -> np.ndarray:
        if params["kind"] == "gold":
            assert reward.normalizer is not None
            return reward.normalizer.alone(answers["judge_score"].to_numpy())
        values = reward.alone(answers_of(answers)).reward
        assert values is not None
        return values

    return alone


def _speaks_alone(params: dict[str, Any]) -> bool:
    """Whether a planned source, and all that it is made of, has a score for a new answer."""
    if params["kind"] in ("labels", "pairwise", "gpm") or params.get("scores_from") == "data":
        return False
    return all(_speaks_alone(part["source"]) for part in params.get("parts", {}).values())
