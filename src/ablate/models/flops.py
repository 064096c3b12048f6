"""Arithmetic of preference training, counted from a model's shape. Free of torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from ablate.models.memory import Shape


@dataclass(frozen=True)
class Work:
    """What a pass works on."""

    #: input tokens, padding left out
    tokens: int
    #: pairs of a query and a key that it sees
    pairs: int
    #: tokens that are predicted
    predicted: int

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.predicted + other.predicted,
        )


def group_work(prompt: int, responses: Sequence[int], shared: bool = True) -> Work:
    """A prompt of so many tokens with its responses (tokens each, the end included).

    Args:
        shared: the prompt is encoded once for all; else once for each.
    """
    inputs = [length - 1 for length in responses]
    pairs = sum(length * prompt + length * (length + 1) // 2 for length in inputs)
    copies = 1 if shared else len(inputs)
    return Work(
        tokens=copies * prompt + sum(inputs),
        pairs=pairs + copies * prompt * (prompt + 1) // 2,
        predicted=sum(responses),
    )


def forward_flops(shape: Shape, work: Work) -> float:
    """Operations of a forward pass: two per weight and token, four per pair and width.

    Norms, rotations and activations are left out, as is usual; the head counts where a token is
    predicted.
    """
    linear = 2 * shape.layer_weights * shape.layers * work.tokens
    attention = 4 * shape.heads * shape.head_dim * shape.layers * work.pairs
    head = 2 * shape.vocabulary * shape.hidden * work.predicted
    return float(linear + attention + head)


def training_flops(shape: Shape, work: Work) -> float:
    """Operations of forward and backward: three times those of the forward pass."""
    return 3 * forward_flops(shape, work)
