"""Legality: combinations that cannot work, refused before any work, each with the way out."""

from collections.abc import Iterator

from ablate.config.collection_rules import collection_reasons
from ablate.config.dataset import LocalConfig
from ablate.config.objective import ObjectiveConfig
from ablate.config.reward_legality import reward_reasons
from ablate.config.run import RunConfig
from ablate.errors import ConfigError

#: what an objective may need and no run gives: what it is, and what it would take
UNPROVIDED = {
    "gold": (
        "a gold response to every prompt",
        "It takes a dataset with a third response; in Python, PromptGroup(gold_logps=...)",
    ),
    "rationale": (
        "a rationale of every preference",
        "It takes a dataset with rationales; in Python, PromptGroup(rationale_logps=...)",
    ),
    "token_weights": (
        "a weight for every token",
        "It takes a source of token masks; in Python, PromptGroup(token_weights=..., "
        "token_kl_weights=...)",
    ),
    "joint": (
        "groups whose responses answer prompts of their own",
        "It takes a dataset of joint pairs; in Python, a PromptGroup of such pairs",
    ),
}


def check(run: RunConfig) -> None:
    """Refuses a run whose levels do not fit together.

    Raises:
        ConfigError: every reason, one per line.
    """
    reasons = list(_reasons(run))
    if reasons:
        raise ConfigError("\n".join(reasons))


def _reasons(run: RunConfig) -> Iterator[str]:
    objective, k = run.objective, run.num_responses.k
    needs = objective.needs
    if k < needs.min_responses:
        yield (
            f"objective={objective.name} compares responses and needs at least "
            f"{needs.min_responses} per prompt, but num_responses is {k}"
        )
    yield from unfed(objective)
    local = isinstance(run.dataset, LocalConfig)
    yield from collection_reasons(run)
    yield from _judge_reasons(run, local)
    yield from reward_reasons(run)
    model = run.base_model
    if model.kind == "hf" and not model.path:
        yield "base_model=hf needs base_model.path: a folder with a saved model, or a hub id"
    training = run.training
    if training.micro_batch_size is not None and training.batch_size % training.micro_batch_size:
        yield (
            f"training.batch_size={training.batch_size} is no multiple of "
            f"training.micro_batch_size={training.micro_batch_size}"
        )
    if model.kind == "scratch" and model.sft.steps == 0:
        yield (
            f"base_model={model.name} starts from random weights: base_model.sft.steps=0 would "
            "leave a policy that knows nothing"
        )


def unfed(objective: ObjectiveConfig) -> Iterator[str]:
    """What an objective needs and no run can give, whatever its levels: one sentence for each."""
    for need, (what, way) in UNPROVIDED.items():
        if getattr(objective.needs, need):
            yield (
                f"objective={objective.name} needs {what}, which no level of another factor gives "
                f"yet. {way}"
            )


def _judge_reasons(run: RunConfig, local: bool) -> Iterator[str]:
    judge = run.judge
    if judge.kind == "world" and local:
        yield (
            f"judge={judge.name} knows the embedded worlds only. With dataset={run.dataset.name} "
            "use judge=preference (a reward model on held-out labels) or "
            "judge=hf judge.path=/path/to/classifier"
        )
    if judge.kind == "preference" and not local:
        yield (
            f"judge=preference is trained on labels that come with a dataset; "
            f"dataset={run.dataset.name} has an exact judge: use judge=world"
        )
    if judge.kind == "preference" and local and run.dataset.judge_share == 0:  # type: ignore[union-attr]
        yield "judge=preference needs held-out labels: set dataset.judge_share above 0"
