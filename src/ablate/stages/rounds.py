"""Planning of preference training: its rounds, each with its prompts, rewards and policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ablate.config.collection import round_prompts
from ablate.config.reward import walk
from ablate.stages.data_params import lengths
from ablate.stages.fingerprints import objective_content
from ablate.stages.reward_plan import plan_reward
from ablate.stages.stage import Stage

if TYPE_CHECKING:
    from ablate.stages.graph import Planner

#: keeps the noise of one round's samples apart from that of the next and of other seeds
ROUND_SEEDS = 1_000_003


@dataclass(frozen=True)
class Chosen:
    """A policy with the stage that chooses among its checkpoints (None takes the last)."""

    policy: Stage
    select: Stage | None = None

    def inputs(self, role: str) -> dict[str, Stage]:
        """As inputs of another stage, whose work opens the weights by `common.model_of`."""
        chosen = {} if self.select is None else {f"{role}_select": self.select}
        return {role: self.policy, **chosen}


@dataclass(frozen=True)
class Trained:
    """What preference training ends with."""

    last: Chosen
    #: the scores whose scale the training reward was divided by
    scores: Stage
    #: those of the first round: of the SFT policy's responses, or of a file's
    first: Stage
    #: the reference of the last round
    reference: Chosen


class Rounds:
    """Plans all rounds of preference training.

    A round trains on the pool of the policy before it, or draws its responses while it trains
    (`refresh_every`). It is the same stage whatever rounds follow, so that a longer run shares its
    beginning with a shorter one.
    """

    def __init__(self, planner: Planner, sft: Stage) -> None:
        self.planner, self.run, self.sft = planner, planner.run, sft
        self.config = planner.run.collection
        self.online = self.config.refresh_every is not None
        self.reward = plan_reward(planner, planner.run.reward, sft)

    def plan(self) -> Trained:
        """The stages of the last round."""
        prompts = self.planner.dataset.num_prompts("train")
        parts = round_prompts(self.config, prompts)
        start = Chosen(self.sft)
        before, scores, first_scores, fixed = start, None, None, start
        for number, (first, last, old) in enumerate(parts, start=1):
            whole = (first, last, old) == (0, prompts, 0)
            # the whole split is what a run without rounds trains on
            part = None if whole else {"first": first, "last": last, "old": old, "round": number}
            title = f"round {number}" if len(parts) > 1 else ""
            init = before if self.config.init == "last" else start
            fixed = before if self.config.reference == "last" else start
            inputs = init.inputs("init")
            if number > 1:
                inputs["before"] = before.policy
            if fixed != init:
                inputs |= fixed.inputs("reference")
            params: dict[str, Any] = {"collection": "offline"}
            if self.online:
                # one scale for all rounds, of the SFT policy's responses: eta keeps its meaning
                if scores is None:
                    scores = self._scores(self._pool(start, None, 1, ""), "")
                inputs |= {"scores": scores, **self.reward.inputs, **self._annotator()}
                params["collection"] = {
                    **self.config.drawing(self.run.dataset.pool.sampling),
                    **self.planner.sampler(),
                    "prompts": self.planner.dataset.identity("train"),
                    "part": part,
                }
                params |= lengths(self.run)
                params["reward"] = self.reward.params
                if self._orders():
                    params["annotator"] = self.planner.judge_content()
            else:
                pool = self._pool(before, part, number, title)
                scores = self._scores(pool, title)
                inputs |= {"pool": pool, "scores": scores}
                if "pool" not in pool.params:
                    # the order of sampled responses means nothing; a file's may be their ranking
                    params["responses"] = "given"
                needs = self.run.objective.needs
                by_token = needs.tokens and needs.reference
                inputs["ref_logps"] = self._logps(pool, fixed, title, by_token)
                if self.run.objective.needs.previous:
                    inputs["prev_logps"] = self._logps(pool, before, title)
            first_scores = first_scores or scores
            last_title = "" if number == len(parts) else title
            before = self._policy(params, inputs, scores, last_title)
        assert scores is not None
        assert first_scores is not None
        return Trained(before, scores, first_scores, fixed)

    def _pool(self, policy: Chosen, part: dict[str, Any] | None, number: int, title: str) -> Stage:
        seed = self.planner.upstream + ROUND_SEEDS * (number - 1)
        return self.planner.pool(
            "train",
            policy.policy,
            seed,
            role=title,
            # responses that came with the data are those of nobody's policy
            given=self.config.kind != "iterative",
            more={} if part is None else {"part": part},
            select=policy.select,
        )

    def _scores(self, pool: Stage, title: str) -> Stage:
        labels = self.planner.labels("train", pool, title, given=not self.config.fresh)
        inputs = {"pool": pool, "labels": labels, **self.reward.inputs}
        return self.planner.stage("scores", {"reward": self.reward.params}, inputs, title)

    def _logps(self, pool: Stage, policy: Chosen, title: str, by_token: bool = False) -> Stage:
        inputs = {"pool": pool, **policy.inputs("reference")}
        params = {"by_token": True} if by_token else {}
        return self.planner.stage("ref_logps", params, inputs, title)

    def _orders(self) -> bool:
        """Whether the judge orders fresh responses as it ordered the pool's."""
        return any(source.kind == "labels" for source in walk(self.run.reward))

    def _annotator(self) -> dict[str, Stage]:
        return self.planner.judge_inputs() if self._orders() else {}

    def _policy(
        self, params: dict[str, Any], inputs: dict[str, Stage], scores: Stage, title: str
    ) -> Chosen:
        run, planner = self.run, self.planner
        training = run.training.identity()
        select_checkpoint = training.pop("select_checkpoint")
        training.pop("select_by")
        training.pop("name")
        lora = run.base_model.lora
        if self.config.curve_every is not None:
            answering = planner.answering(["valid"], self.config.curve_prompts)
            params["curve"] = {"every": self.config.curve_every, **answering}
            params["reward"] = self.reward.params
            inputs |= {"sft": self.sft, **planner.judge_inputs(), **self.reward.inputs}
            inputs |= planner.compared()
        policy = planner.stage(
            "policy",
            {
                "objective": objective_content(run.objective, planner.layout),
                "num_responses": run.num_responses.identity(),
                "training": training,
                "lora": None if lora is None else lora.identity(),
                "seed": run.seed.value,
                **params,
            },
            inputs,
            title,
        )
        if select_checkpoint == "last":
            return Chosen(policy)
        return Chosen(policy, planner.select(policy, scores, self.reward, title))
