"""Fresh groups of a stage: responses drawn from the policy in training, rewarded and selected."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.config.dataset import Sampling
from ablate.config.sampler import SamplerConfig
from ablate.config.selection import RULES, NumResponses
from ablate.config.shaping import WHOLE_BATCH
from ablate.datasets import Prompt, open_dataset
from ablate.errors import ConfigError
from ablate.evaluation.answers import fitting
from ablate.models.tokenizer import decode_response, encode_prompt
from ablate.rewards.table import Answer, RewardTable
from ablate.sampling.responses import Count, SampledResponse
from ablate.sampling.sampler import open_sampler
from ablate.sampling.select import select_indices
from ablate.stages.common import open_fitter
from ablate.stages.context import Context
from ablate.stages.pool import part_of
from ablate.stages.reward_source import open_reward
from ablate.training.groups import Group
from ablate.training.online import FreshGroups, Visit
from ablate.trl_compat.arguments import world_size

#: the random others of `select=paper` depend on the prompt and the pool alone: every objective,
#: K and seed of the policy chooses from the same order
SELECTION_SEED = 0

#: rewards of fresh answers, given the optimizer steps taken before they were drawn; those to one
#: prompt are compared with each other
Score = Callable[[Sequence[Answer], int], RewardTable]


class PolicyRollout:
    """Draws responses with noise keyed by (seed, prompt, visit, response, token).

    Args:
        num_samples: responses drawn per visit, of which `num_responses` picks K.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        score: Score,
        *,
        num_responses: NumResponses,
        sampler: SamplerConfig,
        num_samples: int,
        sampling: Sampling,
        seed: int,
    ) -> None:
        self.tokenizer, self.prompts, self.score = tokenizer, prompts, score
        self.num_responses, self.num_samples = num_responses, num_samples
        self.sampler, self.sampling, self.seed = sampler, sampling, seed
        self.count = Count()
        self.prompt_ids = [encode_prompt(tokenizer, prompt.conversation) for prompt in prompts]

    def groups(self, policy: PreTrainedModel, visits: Sequence[Visit]) -> list[Group]:
        """A group of K rewarded responses per visit."""
        drawn = self.draw(policy, visits, self.num_samples)
        rewards = self.rewards(visits, drawn)
        made = []
        for visit, responses, rows in zip(visits, drawn, rewards, strict=True):
            name = self.prompts[visit.prompt].id
            numbers = [response.index for response in responses]
            picked = pick(rows, self.num_responses, name, numbers)
            made.append(
                Group(
                    prompt_id=name,
                    prompt_ids=self.prompt_ids[visit.prompt],
                    response_ids=[responses[place].ids for place in picked],
                    pool_index=[responses[place].index for place in picked],
                    **reward_fields(rows.iloc[picked], picked),
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
        with open_sampler(self.sampler, model, self.tokenizer) as sampler:
            found = sampler.draw(
                keyed, count, sampling=self.sampling, seed=self.seed, first_index=first_index
            )
        self.count.add(len(found), sum(len(response.ids) for response in found))
        return [found[start : start + count] for start in range(0, len(found), count)]

    def rewards(
        self,
        visits: Sequence[Visit],
        drawn: Sequence[Sequence[SampledResponse]],
    ) -> list[pd.DataFrame]:
        """The training rewards of fresh responses: the one place where they are made.

        Returns:
            the columns of a `RewardTable` by visit, a row per response.
        """
        tables: dict[int, pd.DataFrame] = {}
        # a prompt that comes twice is compared with its own visit's responses only
        for number in sorted({visit.number for visit in visits}):
            places = [place for place, visit in enumerate(visits) if visit.number == number]
            answers = [
                self._answer(visits[place], response)
                for place in places
                for response in drawn[place]
            ]
            columns = self.score(answers, visits[places[0]].step).columns()
            start = 0
            for place in places:
                tables[place] = columns.iloc[start : start + len(drawn[place])]
                start += len(drawn[place])
        return [tables[place] for place in range(len(visits))]

    def _answer(self, visit: Visit, response: SampledResponse) -> Answer:
        prompt = self.prompts[visit.prompt]
        text = decode_response(self.tokenizer, response.ids)
        ids = self.prompt_ids[visit.prompt]
        messages = None if prompt.messages is None else list(prompt.messages)
        return Answer(prompt.id, prompt.text, ids, text, response.ids, messages=messages)


def pick(rows: pd.DataFrame, chosen: NumResponses, name: str, numbers: Sequence[int]) -> list[int]:
    """Places of the K responses of a prompt that enter the loss.

    Args:
        rows: the columns of a `RewardTable`, a row per response.
        numbers: of each response in its pool or refresh.
    """
    column = "reward" if RULES[chosen.select] == "scores" else "rank"
    return select_indices(
        rows[column].to_numpy(),
        min(chosen.k, len(rows)),
        chosen.select,
        (SELECTION_SEED, name),
        names=numbers,
        rso_beta=chosen.rso_beta,
    )


def reward_fields(rows: pd.DataFrame, picked: list[int]) -> dict[str, Any]:
    """What the training reward says of a group, by the names of `Group`.

    Args:
        rows: the columns of a `RewardTable` for the K responses of one prompt.
        picked: their places among the responses that were compared with each other.
    """
    if "reward" not in rows:
        values: dict[str, Any] = {"ranks": rows["rank"].tolist()}
    else:
        values = {"rewards": rows["reward"].tolist()}
    if "extra_rewards" in rows:
        values["extra_rewards"] = [list(map(float, extra)) for extra in rows["extra_rewards"]]
    if "win_probs" in rows:
        values["win_probs"] = [[float(line[j]) for j in picked] for line in rows["win_probs"]]
    return values


def fresh_groups(
    context: Context, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[FreshGroups, dict[str, int]]:
    """The source of groups of an online policy stage, and the prompts cut or left out for it."""
    drawing = context.params["collection"]
    chosen = NumResponses.model_validate(context.params["num_responses"])
    sampling = Sampling.model_validate(drawing["sampling"])
    fitter = open_fitter(context.params, model, tokenizer)
    prompts = fitting(
        part_of(open_dataset(context.run.dataset).prompts("train"), drawing["part"]),
        fitter,
        sampling.max_new_tokens,
    )
    reward = open_reward(context, ["train"])
    if reward.shaper is not None:
        _refuse_shares(context)
    rollout = PolicyRollout(
        tokenizer,
        prompts,
        reward.score,
        num_responses=chosen,
        sampler=context.run.sampler,
        num_samples=drawing["num_samples"] or chosen.k,
        sampling=sampling,
        seed=context.params["seed"],
    )
    fresh = FreshGroups(len(prompts), drawing["refresh_every"], rollout, reward.shaper)
    return fresh, dict(fitter.counts)


def _refuse_shares(context: Context) -> None:
    """Each process rewards its share of a step's responses; some shapers look at all of them."""
    shaping = context.params["reward"]["shaping"]["kind"]
    if shaping in WHOLE_BATCH and world_size() > 1:
        raise ConfigError(
            f"shaping={shaping} looks at all responses of a step, but with several processes each "
            "rewards its share. Use one process, or shaping=slpo, truncation or budget"
        )
