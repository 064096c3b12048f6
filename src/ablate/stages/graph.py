"""Planning: which stages a run needs, with what parameters and inputs. Free of torch."""

from dataclasses import dataclass
from typing import Any

from ablate.config.run import RunConfig
from ablate.datasets import open_dataset
from ablate.stages.data_params import label_model, lengths
from ablate.stages.external import model_content
from ablate.stages.judging import compares_two, judge_content, labelled_by
from ablate.stages.reward_plan import PlannedReward, learnt
from ablate.stages.rounds import Rounds
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
    return RunPlan(run, Planner(run, layout).evaluation())


def plan_labels(run: RunConfig, layout: Layout) -> Stage:
    """The labels of the run's first training prompts; its input `pool` holds their responses."""
    planner = Planner(run, layout)
    return Rounds(planner, planner.sft(planner.upstream)).plan().first.inputs["labels"]


class Planner:
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
        params = {
            "kind": model.kind,
            "content": content,
            "context_length": model.context_length,
            "dtype": model.dtype,
        }
        return params if model.thinking is None else {**params, "thinking": model.thinking}

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
            params |= lengths(self.run)
            if self.run.base_model.lora is not None:
                params["lora"] = self.run.base_model.lora.identity()
        return self.stage("sft", params, {}, role)

    def pool(
        self,
        split: str,
        policy: Stage,
        seed: int,
        limit: int | None = None,
        *,
        role: str = "",
        given: bool = True,
        more: dict[str, Any] | None = None,
        select: Stage | None = None,
    ) -> Stage:
        """N responses per prompt: those of the dataset where `given` and it has any, else drawn.

        `more` are further parameters; `select` chooses among the policy's checkpoints.
        """
        params: dict[str, Any] = {"split": split, "prompts": self.dataset.identity(split)}
        if limit is not None and limit < self.dataset.num_prompts(split):
            params["limit"] = limit
        if not (given and self.dataset.has_responses):
            params |= {"pool": self.run.dataset.pool.identity(), "seed": seed}
            params |= self.sampler()
        params |= lengths(self.run)
        chosen = {} if select is None else {"policy_select": select}
        return self.stage(
            "pool", params | (more or {}), {"policy": policy, **chosen}, role or split
        )

    def sampler(self) -> dict[str, Any]:
        """What draws responses, where it is not the model's own `generate`: its noise differs."""
        kind = self.run.sampler.kind
        return {} if kind == "transformers" else {"sampler": kind}

    def labels(self, split: str, pool: Stage, role: str = "", *, given: bool = True) -> Stage:
        params: dict[str, Any]
        if split == "judge" or (given and self.labelled == "given"):
            params = {"source": "given", "prompts": self.dataset.identity(split), "split": split}
            # the judge learns from clean labels
            params |= {} if split == "judge" else label_model(self.run, self.upstream)
            return self.stage("labels", params, {"pool": pool}, role or split)
        params = {"source": "judge", "judge": self.judge_content(), "split": split}
        params |= label_model(self.run, self.upstream)
        return self.stage("labels", params, {"pool": pool, **self.judge_inputs()}, role or split)

    @property
    def labelled(self) -> str:
        """Who labels responses: `given` with the dataset, or the `judge`."""
        return labelled_by(self.run)

    def judge_content(self) -> dict[str, Any]:
        """What decides the judge's scores."""
        return judge_content(self.run, self.dataset, self.layout)

    def judge_inputs(self) -> dict[str, Stage]:
        """The reward model that judges, where one must be trained; the same for every seed."""
        judge = self.run.judge
        if judge.kind != "preference":
            return {}
        policy = self.sft(0, "judge")
        pool = self.pool("judge", policy, 0)
        inputs = {"pool_id": pool, "labels_id": self.labels("judge", pool)}
        return {"judge": learnt(self, judge.training, "judge", inputs, policy, 0)}

    def evaluation(self) -> Stage:
        sft = self.sft(self.upstream)
        rounds = Rounds(self, sft)
        trained = rounds.plan()
        judge = self.judge_inputs()
        answering = self.answering(self.splits())
        inputs = {
            "policy": trained.last.policy,
            "reference": sft,
            "baseline": self.baseline(),
            "scores": trained.scores,
            **rounds.reward.inputs,
            **judge,
        }
        if trained.last.select is not None:
            inputs["select"] = trained.last.select
        if trained.reference.policy is not sft:
            inputs |= trained.reference.inputs("trained_from")
        params = {**answering, "reward": rounds.reward.params}
        if self.run.evaluation.num_pairs:
            params["num_pairs"] = self.run.evaluation.num_pairs
            inputs |= self.pairs(trained.first, sft)
        if self.run.dataset.labels.annotators:
            params["annotators"] = label_model(self.run, self.upstream)
            inputs |= {f"train_{name}": trained.first.inputs[name] for name in ("pool", "labels")}
        return self.stage("evaluation", params, inputs)

    def pairs(self, first: Stage, sft: Stage) -> dict[str, Stage]:
        """Labelled responses to train and test prompts, of which pairs are made at evaluation."""
        evaluation = self.run.evaluation
        own = self.run.dataset.pool.identity() | {"num_responses": evaluation.pair_responses}
        drawn = not self.dataset.has_responses
        pool = self.pool(
            "test",
            sft,
            self.upstream,
            evaluation.num_pairs,
            role="pairs",
            more={"pool": own} if drawn else None,
        )
        return {
            "train_pool": first.inputs["pool"],
            "train_labels": first.inputs["labels"],
            "test_pool": pool,
            "test_labels": self.labels("test", pool, "pairs"),
        }

    def select(self, policy: Stage, scores: Stage, reward: PlannedReward, role: str = "") -> Stage:
        """The choice among a policy's checkpoints on the valid prompts."""
        params, inputs = self.answering(["valid"]), {"policy": policy, **self.judge_inputs()}
        inputs |= self.compared()
        if self.run.training.select_by == "training_reward":
            params["reward"] = reward.params
            inputs |= {"scores": scores, **reward.inputs}
        return self.stage("select", params, inputs, role)

    def compared(self) -> dict[str, Stage]:
        """What a judge that compares two sets answers beside: those of the SFT policy."""
        return {"baseline": self.baseline()} if compares_two(self.run) else {}

    def baseline(self) -> Stage:
        """The SFT policy's answers."""
        inputs = {"policy": self.sft(self.upstream), **self.judge_inputs()}
        return self.stage("answers", self.answering(self.splits()), inputs)

    def splits(self) -> list[str]:
        return [split for split in ("valid", "test", "ood") if self.dataset.num_prompts(split)]

    def answering(self, splits: list[str], most: int | None = None) -> dict[str, Any]:
        """Parameters of a stage that answers held-out prompts and has the answers judged.

        `most` prompts of each split at most, for a look in passing.
        """
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
                    "num": min(most or sizes[split], self.dataset.num_prompts(split)),
                }
                for split in splits
            },
            "samples_per_prompt": evaluation.samples_per_prompt,
            "sampling": evaluation.sampling.identity(),
            "seed": evaluation.seed,
            "judge": self.judge_content(),
            **self.sampler(),
            **lengths(self.run),
        }
