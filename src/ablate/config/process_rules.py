"""Legality of several processes: batches that divide, and what sharded models cannot do."""

from collections.abc import Iterator

from ablate.config.run import RunConfig
from ablate.config.shaping import WHOLE_BATCH


def process_reasons(run: RunConfig) -> Iterator[str]:
    """Why a run cannot be trained on the processes it asks for, one sentence for each reason."""
    processes = run.runtime.processes
    batches = {"training.batch_size": run.training.batch_size}
    if run.base_model.sft.steps:
        batches["base_model.sft.batch_size"] = run.base_model.sft.batch_size
    for name, size in batches.items():
        if size % processes:
            yield (
                f"{name}={size} does not divide among runtime.processes={processes}; take a "
                f"multiple of {processes}"
            )
    share = run.training.batch_size // processes
    micro = run.training.micro_batch_size
    if micro is not None and not run.training.batch_size % processes and share % micro:
        yield (
            f"each of {processes} processes has {share} of training.batch_size="
            f"{run.training.batch_size} prompts, no multiple of training.micro_batch_size={micro}"
        )
    # rewards of stored responses are made by one process, whatever trains on them
    fresh = run.collection.refresh_every is not None
    if processes > 1 and fresh and run.shaping.kind in WHOLE_BATCH:
        yield (
            f"shaping={run.shaping.name} looks at all responses of a step, but each of "
            f"runtime.processes={processes} rewards its share: use runtime.processes=1, "
            "or shaping=slpo, truncation or budget"
        )
    if run.runtime.fsdp:
        yield from _sharded_reasons(run)


def _sharded_reasons(run: RunConfig) -> Iterator[str]:
    needs = run.objective.needs
    inside = [
        what
        for what, needed in (
            ("token by token", needs.tokens and needs.reference),
            ("of mismatched pairs", needs.mismatched),
            ("over the whole vocabulary", needs.token_kl),
        )
        if needed
    ]
    if inside:
        yield (
            f"objective={run.objective.name} asks the reference for log-probs {inside[0]} while it "
            "trains, which takes a whole model on each GPU: use runtime.fsdp=false"
        )
    for name in ("refresh_every", "curve_every"):
        if getattr(run.collection, name) is not None:
            yield (
                f"collection.{name} samples from the policy while it trains, which takes a whole "
                f"model on each GPU: use runtime.fsdp=false or collection.{name}=null"
            )
