"""Legality: combinations that cannot work, refused before any work, each with the way out."""

from collections.abc import Iterator

from ablate.config.collection_rules import collection_reasons, prompt_reasons
from ablate.config.dataset import GivenConfig, LocalConfig
from ablate.config.drawn_legality import drawn_reasons
from ablate.config.objective import ObjectiveConfig
from ablate.config.process_rules import process_reasons
from ablate.config.reward import gives, walk
from ablate.config.reward_legality import reward_reasons
from ablate.config.run import RunConfig
from ablate.config.selection import RULES
from ablate.errors import ConfigError
from ablate.store.secrets import holding

#: what an objective may need and no run gives: what it is, and what it would take
UNPROVIDED = {
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

#: what comes only with a file that has a column of this name
COLUMNS = {
    "gold": "a gold response to every prompt",
    "rationale": "a rationale of every preference",
}


def check(run: RunConfig) -> None:
    """Refuses a run whose levels do not fit together.

    Raises:
        ConfigError: every reason, one per line.
    """
    reasons = list(_reasons(run))
    if reasons:
        raise ConfigError("\n".join(reasons))


def check_sampling(run: RunConfig) -> None:
    """Refuses a run whose responses could not be drawn and labelled; what trains on them is moot.

    Raises:
        ConfigError: every reason, one per line.
    """
    local = isinstance(run.dataset, GivenConfig)
    reasons = [
        *_secret_reasons(run),
        *label_reasons(run, local),
        *prompt_reasons(run),
        *_sampler_reasons(run),
        *_model_reasons(run),
        *process_reasons(run),
    ]
    given = isinstance(run.dataset, GivenConfig) and run.dataset.labelled_by == "given"
    if not given or run.collection.fresh:
        reasons += _judge_reasons(run, local)
    if reasons:
        raise ConfigError("\n".join(reasons))


def _secret_reasons(run: RunConfig) -> Iterator[str]:
    """Settings that hold a key or password: they would stand in every record."""
    for path in dict.fromkeys(holding(run.model_dump(mode="json"))):
        # the value is not repeated
        yield (
            f"{path} holds what looks like a key or a password, which would be recorded. Put it "
            "into an environment variable (HF_TOKEN, WANDB_API_KEY, the one that "
            "judge.api_key_env names)"
        )


def _reasons(run: RunConfig) -> Iterator[str]:
    yield from _secret_reasons(run)
    objective, k = run.objective, run.num_responses.k
    needs = objective.needs
    if k < needs.min_responses:
        yield (
            f"objective={objective.name} compares responses and needs at least "
            f"{needs.min_responses} per prompt, but num_responses is {k}"
        )
    if run.keep == "adapter" and run.base_model.lora is None:
        yield (
            f"keep=adapter keeps LoRA adapters, and base_model={run.base_model.name} trains none. "
            "Use keep=best, or a level of base_model with adapters (its name ends with _lora)"
        )
    yield from _selection_reasons(run)
    yield from unfed(objective)
    local = isinstance(run.dataset, GivenConfig)
    for column, what in COLUMNS.items():
        if not getattr(needs, column):
            continue
        if not isinstance(run.dataset, LocalConfig):
            yield (
                f"objective={objective.name} needs {what}, which dataset={run.dataset.name} does "
                f"not have. Use dataset=local with a file that has the column `{column}`"
            )
        elif run.collection.fresh:
            yield (
                f"objective={objective.name} needs {what}, which responses drawn anew do not have. "
                "Use collection=offline"
            )
    yield from label_reasons(run, local)
    yield from collection_reasons(run)
    yield from _judge_reasons(run, local)
    yield from reward_reasons(run)
    yield from drawn_reasons(run)
    yield from _sampler_reasons(run)
    yield from _model_reasons(run)
    training = run.training
    if training.micro_batch_size is not None and training.batch_size % training.micro_batch_size:
        yield (
            f"training.batch_size={training.batch_size} is no multiple of "
            f"training.micro_batch_size={training.micro_batch_size}"
        )
    yield from process_reasons(run)


def _model_reasons(run: RunConfig) -> Iterator[str]:
    model = run.base_model
    if model.kind == "hf" and not model.path:
        yield "base_model=hf needs base_model.path: a folder with a saved model, or a hub id"
    if model.kind == "scratch" and model.sft.steps == 0:
        yield (
            f"base_model={model.name} starts from random weights: base_model.sft.steps=0 would "
            "leave a policy that knows nothing"
        )


def _selection_reasons(run: RunConfig) -> Iterator[str]:
    if run.num_responses.min_gap and run.collection.refresh_every is not None:
        yield (
            "num_responses.min_gap leaves out prompts of a stored pool, but "
            f"collection={run.collection.name} draws responses while it trains. Use "
            "num_responses.min_gap=0, or collection=offline or iterative"
        )
    if gives(run.reward).scores:
        return
    chosen, reward = run.num_responses, run.reward.name
    if RULES[chosen.select] == "scores":
        others = ", ".join(name for name, reads in RULES.items() if reads != "scores")
        yield (
            f"num_responses.select={chosen.select} needs scores, but reward={reward} gives only an "
            f"order. Use one of {others}, or another reward"
        )
    if chosen.min_gap:
        yield (
            f"num_responses.min_gap={chosen.min_gap} measures a difference of scores, but "
            f"reward={reward} gives only an order. Use num_responses.min_gap=0, or another reward"
        )


def _sampler_reasons(run: RunConfig) -> Iterator[str]:
    sampler = run.sampler
    if sampler.kind != "vllm":
        return
    if (sampler.mode == "server") != (sampler.server_url is not None):
        yield (
            f"sampler.mode={sampler.mode} with sampler.server_url={sampler.server_url}: "
            "sampler.mode=server needs the address, sampler.mode=colocate takes none"
        )
    collection = run.collection
    if collection.refresh_every is not None or collection.curve_every is not None:
        yield (
            "sampler=vllm draws from saved models, not from a policy in training "
            "(collection.refresh_every, collection.curve_every). Use sampler=transformers or "
            "sampler=continuous, or collection=iterative without a curve"
        )
    if run.runtime.device == "cpu":
        yield "sampler=vllm needs a GPU, but runtime.device=cpu. Use sampler=transformers"


def unfed(objective: ObjectiveConfig) -> Iterator[str]:
    """What an objective needs and no run can give, whatever its levels: one sentence for each."""
    for need, (what, way) in UNPROVIDED.items():
        if getattr(objective.needs, need):
            yield (
                f"objective={objective.name} needs {what}, which no level of another factor gives "
                f"yet. {way}"
            )


def label_reasons(run: RunConfig, local: bool) -> Iterator[str]:
    """What is wrong with the label model; `local` says that texts are free."""
    groups = run.dataset.labels.annotators
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        yield f"dataset.labels.annotators has two groups of one name: {', '.join(names)}"
    sources = [source.kind for source in walk(run.reward)]
    online = run.collection.refresh_every is not None
    if online and "labels" in sources and not run.dataset.labels.clean:
        yield (
            f"collection={run.collection.name} orders its fresh responses by the judge, without "
            "the label model of dataset.labels. Use collection=iterative, whose pools are "
            "labelled with it, or a reward that is learnt from the labels"
        )
    if local and any(group.nuisance for group in groups):
        yield (
            f"dataset={run.dataset.name} is free text: which of its words are for show is known in "
            "the embedded worlds only. Use nuisance: 0 in dataset.labels.annotators"
        )


def _judge_reasons(run: RunConfig, local: bool) -> Iterator[str]:
    judge = run.judge
    if judge.kind == "world" and local:
        yield (
            f"judge={judge.name} knows the embedded worlds only. With dataset={run.dataset.name} "
            "use judge=preference (a reward model on held-out labels), "
            "judge=hf judge.path=/path/to/classifier, or judge=http (an endpoint)"
        )
    if judge.kind == "preference" and not local:
        yield (
            f"judge=preference is trained on labels that come with a dataset; "
            f"dataset={run.dataset.name} has an exact judge: use judge=world"
        )
    if judge.kind == "preference" and local and run.dataset.judge_share == 0:  # type: ignore[union-attr]
        yield "judge=preference needs held-out labels: set dataset.judge_share above 0"
    if judge.kind == "http" and judge.format != "chat" and judge.chat.mode == "pairwise":
        yield (
            f"judge={judge.name} compares two answers, which takes a chat model; "
            f"judge.format={judge.format} scores one. Use judge=http_reward, or judge.format=chat"
        )
