"""TRL's fused LM head: per-token log-probabilities without the logits of a whole batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


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


def detach(model: Any) -> None:
    """Take the fused head off again: the class's own forward is back."""
    base_of(model).__dict__.pop("forward", None)


@contextmanager
def fused_head(model: Any) -> Iterator[None]:
    """Within: the model has a fused head; afterwards it is as it was."""
    base = base_of(model)
    before = base.__dict__.get("forward")
    attach(model)
    try:
        yield
    finally:
        detach(model)
        if before is not None:
            base.__dict__["forward"] = before


def token_logps(model: Any, input_ids: Tensor, completion_mask: Tensor) -> Tensor:
    """Log-probabilities of the completion's tokens; the model needs a fused head.

    Args:
        input_ids: int[R, L], padded on the right.
        completion_mask: bool[R, L], True at the tokens of the response.

    Returns:
        float32[R, L - 1]: log π(token t + 1 | tokens up to t), 0 outside the response. No
        attention mask is needed: in a causal model, padding on the right is seen by nobody.
    """
    return token_values(model, input_ids, completion_mask, ("log_probs",))[0]


def token_values(
    model: Any, input_ids: Tensor, completion_mask: Tensor, names: tuple[str, ...]
) -> list[Tensor]:
    """As `token_logps`, for several fields of the fused head's output that it was given."""
    labels = input_ids.masked_fill(~completion_mask, -100)
    output = model(input_ids=input_ids, labels=labels, fused_lm_head=True, use_cache=False)
    return [output[name][:, -(input_ids.shape[1] - 1) :].float() for name in names]
