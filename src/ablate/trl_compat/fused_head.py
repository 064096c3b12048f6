"""TRL's fused LM head: per-token log-probabilities without the logits of a whole batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

#: the keyword under which the backbone is told where something is predicted
_SOURCE = "source_places"
#: where a model keeps its hooks
_HOOKS = "_ablate_gather"


def base_of(model: Any) -> Any:
    """The transformers model inside adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def attach(model: Any, more: tuple[str, ...] = ()) -> None:
    """Give the model TRL's fused head, once, computing log-probabilities and `more` per token.

    `add_fused_lm_head` replaces `model.forward` on the instance and wraps whatever stands there,
    so an earlier one is taken off first. The head's product runs in float32 for models in a
    smaller type: their rounding would otherwise depend on the batch's shape.
    """
    from trl.trainer.utils import add_fused_lm_head

    base = base_of(model)
    detach(base)
    narrow = base.get_output_embeddings().weight.dtype != torch.float32
    add_fused_lm_head(base, outputs=("log_probs", *more), cast_lm_head_to_fp32=narrow)
    gather(base)


def detach(model: Any) -> None:
    """Take the fused head off again: the class's own forward is back."""
    base_of(model).__dict__.pop("forward", None)
    ungather(model)


@contextmanager
def fused_head(model: Any) -> Iterator[None]:
    """Within: the model has a fused head; afterwards it is as it was."""
    base = base_of(model)
    before, gathered = base.__dict__.get("forward"), _HOOKS in base.__dict__
    attach(model)
    try:
        yield
    finally:
        detach(base)
        if before is not None:
            base.__dict__["forward"] = before
        if gathered:
            gather(base)


def token_values(
    model: Any,
    rows: dict[str, Tensor],
    names: tuple[str, ...],
    attention: Any = None,
    prefix: str = "",
) -> list[Tensor]:
    """What the head says of every response token; the model needs a fused head.

    Args:
        rows: as `text_rows` makes them, under names that begin with `prefix`.
        names: fields of the fused head's output that it was given.
        attention: mask of packed rows. None: a row per text, padded on the right, which in a
            causal model is seen by nobody and needs no mask.

    Returns:
        per name a float32[N]: `log_probs` is log π(token | prompt and tokens before).
    """
    output = model(
        **_inputs(rows, attention, prefix),
        shift_labels=rows[f"{prefix}target"][None],
        fused_lm_head=True,
    )
    return [output[name][0].float() for name in names]


def token_logits(model: Any, rows: dict[str, Tensor], attention: Any = None) -> Tensor:
    """[N, V]: the logits at every response token, arguments as in `token_values`."""
    output: Any = model(**_inputs(rows, attention, ""))
    return output.logits[0]


def _inputs(rows: dict[str, Tensor], attention: Any, prefix: str) -> dict[str, Any]:
    inputs = {
        "input_ids": rows[f"{prefix}input_ids"],
        _SOURCE: rows[f"{prefix}source"],
        "use_cache": False,
    }
    if attention is not None:
        inputs |= {"position_ids": rows[f"{prefix}position_ids"], "attention_mask": attention}
    return inputs


def gather(model: Any) -> None:
    """Has the model's backbone give the hidden states at given places alone, once.

    Called with `source` int[N], places in the flattened [R, L], the backbone's last hidden state
    is [1, N, H], so that its head costs nothing where nothing is predicted.
    """
    base = base_of(model)
    if _HOOKS in base.__dict__:
        return
    asked: list[Tensor | None] = []

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        asked.append(kwargs.pop(_SOURCE, None))
        return args, kwargs

    def after(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        source = asked.pop()
        if source is not None:
            hidden = output.last_hidden_state
            output.last_hidden_state = hidden.flatten(0, 1)[source][None]
        return output

    backbone = base.base_model
    base.__dict__[_HOOKS] = (
        backbone.register_forward_pre_hook(before, with_kwargs=True),
        backbone.register_forward_hook(after, with_kwargs=True),
    )


def ungather(model: Any) -> None:
    """Takes `gather` off again."""
    for hook in base_of(model).__dict__.pop(_HOOKS, ()):
        hook.remove()


@contextmanager
def gathering(model: Any) -> Iterator[None]:
    """Within: the model gathers hidden states; afterwards it is as it was."""
    had = _HOOKS in base_of(model).__dict__
    gather(model)
    try:
        yield
    finally:
        if not had:
            ungather(model)
