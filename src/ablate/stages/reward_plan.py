"""Planning of reward sources: each learnt part is a stage of its own, shared by content."""

from typing import Any, Protocol

from ablate.config.reward import (
    EnsembleReward,
    ExplicitReward,
    FormatReward,
    GoldReward,
    ImplicitTraining,
    LengthReward,
    PairwiseReward,
    Part,
    PreferenceReward,
    RewardConfig,
    Training,
    VerifierReward,
    parts,
    training_of,
)
from ablate.config.run import RunConfig
from ablate.datasets.base import PreferenceDataset
from ablate.errors import ConfigError
from ablate.stages.external import classifier_content, plain_classifier
from ablate.stages.fingerprints import objective_content
from ablate.stages.stage import Stage
from ablate.store.layout import Layout

#: share of the labelled prompts that is kept from training to measure the reward's accuracy
HELD_OUT = 0.1
#: two trainings of one source differ by this much in their seed
SEED_STEP = 1_000_003


class Planner(Protocol):
    """What this module asks of the planner of a run."""

    run: RunConfig
    layout: Layout
    dataset: PreferenceDataset
    upstream: int

    @property
    def labelled(self) -> str: ...
    def stage(
        self, name: str, params: dict[str, Any], inputs: dict[str, Stage], role: str = ""
    ) -> Stage: ...
    def pool(self, split: str, policy: Stage, seed: int, limit: int | None = None) -> Stage: ...
    def labels(self, split: str, pool: Stage) -> Stage: ...
    def base_model(self) -> dict[str, Any]: ...
    def judge_content(self) -> dict[str, Any]: ...
    def judge_inputs(self) -> dict[str, Stage]: ...


def input_name(path: tuple[str, ...]) -> str:
    """The name under which a learnt part's model is an input; `path` leads to the part."""
    return ".".join(("reward_model", *path))


def plan_reward(planner: Planner, reward: RewardConfig, sft: Stage) -> "PlannedReward":
    """Plain data that identify a training reward, and the stages that it reads.

    Raises:
        ConfigError: a classifier that is also the judge.
    """
    planned = PlannedReward({}, {})
    planned.params = _params(planner, Part(reward, 0), sft, (), planned.inputs)
    shaping = planner.run.shaping
    if shaping.kind != "none":
        settings = shaping.identity()
        settings.pop("name")
        planned.params["shaping"] = settings
    return planned


class PlannedReward:
    """`params` describe the source; `inputs` are the stages it reads, beside the pool's."""

    def __init__(self, params: dict[str, Any], inputs: dict[str, Stage]) -> None:
        self.params, self.inputs = params, inputs


def _params(
    planner: Planner, part: Part, sft: Stage, path: tuple[str, ...], inputs: dict[str, Stage]
) -> dict[str, Any]:
    reward = part.source
    params: dict[str, Any] = {"kind": reward.kind, "normalize": reward.normalize}
    if reward.normalize == "clip":
        params["clip_at"] = reward.clip_at
    params |= _own(planner, reward, inputs)
    training = training_of(reward)
    if training is not None:
        seed = planner.upstream + SEED_STEP * part.seed
        role = reward.kind if not path else ".".join(path)
        inputs[input_name(path)] = labelled(planner, training, role, sft, seed)
        if isinstance(training, ImplicitTraining):
            inputs["reward_reference"] = sft
    inner = parts(reward, part.seed)
    if inner:
        params["parts"] = {
            name: {
                "weight": one.weight,
                "source": _params(planner, one, sft, (*path, name), inputs),
            }
            for name, one in inner.items()
        }
        params["order"] = list(inner)
    return params


def _own(planner: Planner, reward: RewardConfig, inputs: dict[str, Stage]) -> dict[str, Any]:
    """What a source of this kind is told beside its training and its parts."""
    if isinstance(reward, GoldReward):
        if planner.labelled == "given" and reward.scores_from == "data":
            return {"scores_from": "data"}
        inputs.update(planner.judge_inputs())
        return {"scores_from": "judge", "judge": planner.judge_content()}
    if isinstance(reward, VerifierReward):
        if reward.pattern is not None:
            return {"pattern": reward.pattern}
        return {"judge": planner.judge_content()}
    if isinstance(reward, ExplicitReward) and reward.path is not None:
        classifier = plain_classifier(reward.path, reward.output)
        content = classifier_content(classifier, planner.layout, "reward.path")
        if content["content"] == planner.judge_content().get("content"):
            raise ConfigError(
                f"the classifier {reward.path} is the judge itself; a training reward that is the "
                "judge is asked for by reward=gold"
            )
        return {**content, "output": reward.output}
    if isinstance(reward, LengthReward):
        return {"target": reward.target}
    if isinstance(reward, FormatReward):
        return {"pattern": reward.pattern}
    if isinstance(reward, EnsembleReward):
        weight = reward.sd_weight if reward.combine == "mean_minus_sd" else None
        return {"combine": reward.combine, "sd_weight": weight}
    if isinstance(reward, PairwiseReward):
        return {"rule": reward.rule, "tau": reward.tau if reward.rule == "sigmoid" else None}
    if isinstance(reward, PreferenceReward):
        return {"tau": reward.training.tau}
    return {}


def labelled(planner: Planner, training: Training, role: str, init: Stage, seed: int) -> Stage:
    """A learnt source on labels of the prompts that its settings name.

    It is also measured on labels of the other kind of prompts, where the dataset has any.
    """
    dataset, kind = planner.dataset, training.prompts
    splits = {"id": "reward", "ood": "ood" if dataset.has_responses else "reward_ood"}
    size = dataset.num_prompts("reward")
    limits = {
        "id": None if kind == "id" else size // 2 if kind == "mix" else held_out(size),
        "ood": None if kind == "ood" else size // 2 if kind == "mix" else held_out(size),
    }
    inputs: dict[str, Stage] = {}
    for name, split in splits.items():
        if dataset.num_prompts(split):
            pool = planner.pool(split, init, planner.upstream, limits[name])
            inputs |= {f"pool_{name}": pool, f"labels_{name}": planner.labels(split, pool)}
    return learnt(planner, training, role, inputs, init, seed)


def held_out(prompts: int) -> int:
    """How many of the labelled prompts are kept from training."""
    return max(1, round(HELD_OUT * prompts))


def learnt(
    planner: Planner,
    training: Training,
    role: str,
    inputs: dict[str, Stage],
    init: Stage,
    seed: int,
) -> Stage:
    """The stage that trains a source on the pools and labels among `inputs`."""
    params: dict[str, Any] = {"training": training.identity(), "seed": seed}
    if isinstance(training, ImplicitTraining):
        params["kind"] = "implicit"
        params["training"].pop("objective")
        params["objective"] = objective_content(training.objective, planner.layout)
        lora = planner.run.base_model.lora
        params["lora"] = None if lora is None else lora.identity()
        params["optimisation"] = {
            **planner.run.training.identity(),
            "name": "implicit reward",
            "lr": training.lr,
            "batch_size": training.batch_size,
            "micro_batch_size": None,
            "epochs": training.epochs,
            "max_steps": None,
            "select_checkpoint": "last",
            "select_by": "judge",
        }
    else:
        params["kind"] = training.loss
        if training.init == "base":
            params["base"] = planner.base_model()
    return planner.stage("reward_model", params, {**inputs, "init": init}, role)
