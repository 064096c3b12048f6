"""Planning: which stages a run needs, with what parameters and inputs. Free of torch."""

from dataclasses import dataclass
from typing import Any

from ablate.config.dataset import WorldConfig
from ablate.config.run import RunConfig
from ablate.datasets import open_dataset
from ablate.stages.external import classifier_content, model_content
from ablate.stages.fingerprints import objective_content
from ablate.stages.reward_plan import PlannedReward, learnt, plan_reward
from ablate.stages.stage import Stage
from ablate.store.layout import Layout


@dataclass(frozen=True)
class RunPlan:
    """A run with its stages; its identity is that of its evaluation."""

    run: RunConfig
    evaluation: Stage

    @property
    def identity(self) -> str:
        return self.evaluation.identity

    def stages(self) -> list[Stage]:
        """All stages, inputs first."""
        return list(self.evaluation.walk())


def plan(run: RunConfig, layout: Layout) -> RunPlan:
    """The stages of a run. Reads local files and model folders to identify their content."""
    return RunPlan(run, _Planner(run, layout).evaluation())


class _Planner:
    """Builds the graph of one run from its last stage backwards."""

    def __init__(self, run: RunConfig, layout: Layout) -> None:
        self.run = run
        self.layout = layout
        self.dataset = open_dataset(run.dataset)
        #: the seed of everything before the policy
        self.upstream = run.seed.value if run.seed.scope == "all" else 0

    def stage(
        self, name: str, params: dict[str, Any], inputs: dict[str, Stage], role: str = ""
    ) -> Stage:
        return Stage(name, role or name, params, inputs, self.run)

    def base_model(self) -> dict[str, Any]:
        model = self.run.base_model
        if model.kind == "scratch":
            assert model.architecture is not None
            content: Any = model.architecture.identity()
        else:
            content = model_content(model, self.layout)
        return {
            "kind": model.kind,
            "content": content,
            "context_length": model.context_length,
            "dtype": model.dtype,
        }

    def sft(self, seed: int, role: str = "") -> Stage:
        params: dict[str, Any] = {
            "model": self.base_model(),
            "sft": self.run.base_model.sft.identity(),
            "demonstrations": None,
            "vocabulary": self.dataset.vocabulary,
            "seed": seed,
        }
        if self.run.base_model.sft.steps > 0:
            params["demonstrations"] = self.dataset.identity("sft")
            params |= self.lengths()
        return self.stage("sft", params, {}, role)

    def pool(self, split: str, policy: Stage, seed: int, limit: int | None = None) -> Stage:
        params: dict[str, Any] = {"split": split, "prompts": self.dataset.identity(split)}
        if limit is not None and limit < self.dataset.num_prompts(split):
            params["limit"] = limit
        if not self.dataset.has_responses:
            params |= {"pool": self.run.dataset.pool.identity(), "seed": seed}
        params |= self.lengths()
        return self.stage("pool", params, {"policy": policy}, split)

    def labels(self, split: str, pool: Stage) -> Stage:
        params: dict[str, Any]
        if self.dataset.has_responses:
            params = {"source": "given", "prompts": self.dataset.identity(split), "split": split}
            params |= self.label_model(split)
            return self.stage("labels", params, {"pool": pool}, split)
        params = {"source": "judge", "judge": self.judge_content(), "split": split}
        params |= self.label_model(split)
        return self.stage("labels", params, {"pool": pool, **self.judge_inputs()}, split)

    def label_model(self, split: str) -> dict[str, Any]:
        """What makes labels differ from clean scores; the judge's own labels stay clean."""
        labels = self.run.dataset.labels
        if labels.clean or split == "judge":
            return {}
        return {"model": labels.identity(), "seed": self.upstream}

    def lengths(self) -> dict[str, Any]:
        """The limits of examples, where they are other than the model's context."""
        dataset = self.run.dataset
        if isinstance(dataset, WorldConfig) or dataset.lengths.neutral:
            return {}
        return {"lengths": dataset.lengths.identity()}

    def judge_content(self) -> dict[str, Any]:
        judge = self.run.judge
        if judge.kind == "world":
            return {"kind": "world", "world": self.dataset.judge_identity()}
        if judge.kind == "hf":
            assert judge.path is not None
            return {"kind": "hf", "content": classifier_content(judge.path, self.layout)}
        return {"kind": "preference"}

    def judge_inputs(self) -> dict[str, Stage]:
        """The reward model that judges, where one must be trained; the same for every seed."""
        judge = self.run.judge
        if judge.kind != "preference":
            return {}
        assert judge.training is not None
        policy = self.sft(0, "judge")
        pool = self.pool("judge", policy, 0)
        inputs = {"pool_id": pool, "labels_id": self.labels("judge", pool)}
        return {"judge": learnt(self, judge.training, "judge", inputs, policy, 0)}

    def evaluation(self) -> Stage:
        run, seed = self.run, self.run.seed.value
        sft = self.sft(self.upstream)
        pool = self.pool("train", sft, self.upstream)
        labels = self.labels("train", pool)
        reward = plan_reward(self, run.reward, sft)
        scores = self.stage(
            "scores",
            {"reward": reward.params},
            {"pool": pool, "labels": labels, **reward.inputs},
        )
        ref_logps = self.stage("ref_logps", {}, {"pool": pool, "reference": sft})
        training = run.training.identity()
        select_checkpoint = training.pop("select_checkpoint")
        select_by = training.pop("select_by")
        training.pop("name")
        lora = run.base_model.lora
        policy = self.stage(
            "policy",
            {
                "objective": objective_content(run.objective, self.layout),
                "num_responses": run.num_responses.identity(),
                "training": training,
                "lora": None if lora is None else lora.identity(),
                "collection": run.collection.kind,
                "seed": seed,
            },
            {"init": sft, "pool": pool, "scores": scores, "ref_logps": ref_logps},
        )
        judge = self.judge_inputs()
        answering = self.answering(self.splits())
        inputs = {
            "policy": policy,
            "reference": sft,
            "baseline": self.stage("answers", answering, {"policy": sft, **judge}),
            "scores": scores,
            **reward.inputs,
            **judge,
        }
        if select_checkpoint == "valid":
            inputs["select"] = self.select(select_by, policy, scores, reward)
        return self.stage("evaluation", {**answering, "reward": reward.params}, inputs)

    def select(self, by: str, policy: Stage, scores: Stage, reward: PlannedReward) -> Stage:
        """The choice among a policy's checkpoints on the valid prompts."""
        params, inputs = self.answering(["valid"]), {"policy": policy, **self.judge_inputs()}
        if by == "training_reward":
            params["reward"] = reward.params
            inputs |= {"scores": scores, **reward.inputs}
        return self.stage("select", params, inputs)

    def splits(self) -> list[str]:
        return [split for split in ("valid", "test", "ood") if self.dataset.num_prompts(split)]

    def answering(self, splits: list[str]) -> dict[str, Any]:
        """Parameters of a stage that answers held-out prompts and has the answers judged."""
        evaluation = self.run.evaluation
        sizes = {
            "valid": evaluation.num_valid,
            "test": evaluation.num_test,
            "ood": evaluation.num_ood,
        }
        return {
            "splits": {
                # no more than there are: asking for more is the same evaluation
                split: {
                    "prompts": self.dataset.identity(split),
                    "num": min(sizes[split], self.dataset.num_prompts(split)),
                }
                for split in splits
            },
            "samples_per_prompt": evaluation.samples_per_prompt,
            "sampling": evaluation.sampling.identity(),
            "seed": evaluation.seed,
            "judge": self.judge_content(),
            **self.lengths(),
        }
