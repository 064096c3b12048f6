"""Fresh groups of a stage: responses drawn from the policy in training, rewarded and selected."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.config.dataset import Sampling
from ablate.datasets import Prompt, open_dataset
from ablate.evaluation.judges import Judge, open_judge
from ablate.models.tokenizer import decode_response, encode_prompt
from ablate.rewards.scorers import Answer
from ablate.sampling.sample import SampledResponse, sample_responses
from ablate.sampling.select import select_indices
from ablate.stages.common import MODEL, RESULT, open_scorer
from ablate.stages.context import Context
from ablate.stages.pool import SAMPLE_BATCH, part_of
from ablate.store.files import read_json
from ablate.training.groups import Group
from ablate.training.online import FreshGroups, Visit

#: the random others of `select=paper` depend on the prompt and the pool alone: every objective,
#: K and seed of the policy chooses from the same order
SELECTION_SEED = 0

Score = Callable[[Sequence[Answer]], NDArray[np.float64]]


class PolicyRollout:
    """Draws responses with noise keyed by (seed, prompt, visit, response, token).

    Args:
        num_samples: responses drawn per visit, of which `num_responses` picks K.
        order_only: the scores are ranks; training sees no differences of them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        score: Score,
        *,
        num_responses: dict[str, Any],
        num_samples: int,
        sampling: Sampling,
        seed: int,
        order_only: bool,
    ) -> None:
        self.tokenizer, self.prompts, self.score = tokenizer, prompts, score
        self.num_responses, self.num_samples = num_responses, num_samples
        self.sampling, self.seed, self.order_only = sampling, seed, order_only
        self.prompt_ids = [encode_prompt(tokenizer, prompt.text) for prompt in prompts]

    def groups(self, policy: PreTrainedModel, visits: Sequence[Visit]) -> list[Group]:
        """A group of K rewarded responses per visit."""
        drawn = self.draw(policy, visits, self.num_samples)
        rewards = self.rewards(visits, drawn)
        made = []
        for visit, responses, scores in zip(visits, drawn, rewards, strict=True):
            name = self.prompts[visit.prompt].id
            k = min(self.num_responses["k"], len(responses))
            how = self.num_responses["select"]
            picked = select_indices(scores, k, how, (SELECTION_SEED, name))
            values = [float(scores[place]) for place in picked]
            made.append(
                Group(
                    prompt_id=name,
                    prompt_ids=self.prompt_ids[visit.prompt],
                    response_ids=[responses[place].ids for place in picked],
                    rewards=None if self.order_only else values,
                    ranks=values if self.order_only else None,
                    pool_index=[responses[place].index for place in picked],
                )
            )
        return made

    def single(self, model: PreTrainedModel, visits: Sequence[Visit]) -> list[list[int]]:
        """One more response per visit, after those of the group in the noise's order."""
        drawn = self.draw(model, visits, 1, first_index=self.num_samples)
        return [responses[0].ids for responses in drawn]

    def draw(
        self, model: PreTrainedModel, visits: Sequence[Visit], count: int, first_index: int = 0
    ) -> list[list[SampledResponse]]:
        """`count` responses per visit."""
        # a prompt that comes again is answered anew
        keyed = [
            (f"{self.prompts[visit.prompt].id}|{visit.number}", self.prompt_ids[visit.prompt])
            for visit in visits
        ]
        found = sample_responses(
            model,
            self.tokenizer,
            keyed,
            count,
            sampling=self.sampling,
            seed=self.seed,
            batch_size=SAMPLE_BATCH,
            first_index=first_index,
        )
        return [found[start : start + count] for start in range(0, len(found), count)]

    def rewards(
        self, visits: Sequence[Visit], drawn: Sequence[Sequence[SampledResponse]]
    ) -> list[NDArray[np.float64]]:
        """The training rewards of fresh responses, by visit: the one place where they are made."""
        answers = [
            Answer(
                self.prompts[visit.prompt].id,
                self.prompts[visit.prompt].text,
                self.prompt_ids[visit.prompt],
                decode_response(self.tokenizer, response.ids),
                response.ids,
            )
            for visit, responses in zip(visits, drawn, strict=True)
            for response in responses
        ]
        counts = [len(responses) for responses in drawn]
        return np.split(self.score(answers), np.cumsum(counts)[:-1])


def training_score(
    context: Context, reward: dict[str, Any], splits: Sequence[str], judge: Judge | None = None
) -> Score:
    """The training reward of any answers, on the scale that the run's scores have.

    The judge scores where the reward is its own (gold, or the order of its labels).
    """
    scale = read_json(context.inputs["scores"] / RESULT)["scale"]
    # an implicit reward is a ratio to SFT, whatever the reference of this training is
    inputs = {**context.inputs, "reference": context.inputs["sft"]}
    source: Any = open_scorer(reward, context.run, inputs) or judge
    if source is None:
        model = context.inputs.get("judge")
        dataset = open_dataset(context.run.dataset)
        source = open_judge(context.run, dataset, splits, model and model / MODEL)
    return lambda answers: np.asarray(source.score(answers)) / scale


def fresh_groups(context: Context, tokenizer: PreTrainedTokenizerBase) -> FreshGroups:
    """The source of groups of an online policy stage."""
    drawing, chosen = context.params["collection"], context.params["num_responses"]
    prompts = part_of(open_dataset(context.run.dataset).prompts("train"), drawing["part"])
    rollout = PolicyRollout(
        tokenizer,
        prompts,
        training_score(context, drawing["reward"], ["train"]),
        num_responses=chosen,
        num_samples=drawing["num_samples"] or chosen["k"],
        sampling=Sampling.model_validate(drawing["sampling"]),
        seed=context.params["seed"],
        order_only=drawing["reward"]["kind"] == "labels",
    )
    return FreshGroups(len(prompts), drawing["refresh_every"], rollout)
