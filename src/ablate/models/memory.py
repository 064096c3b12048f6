"""How much GPU memory preference training takes: a sum over what is held, from a model's shape."""

from dataclasses import dataclass
from typing import Any

#: tokens of a sequence that the estimates in the level files assume
TOKENS = 1024
RESPONSES = 4
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A transformer's shape, as its config tells it, and its number of weights."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    weights: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Shape":
        """The shape of a LLaMA-like model from the content of its config.json.

        Weights are those of the matrices: projections, the three of the MLP, embeddings and head.

        Raises:
            KeyError: the config says nothing of one of these.
        """
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        head_dim = config.get("head_dim") or hidden // heads
        layers, intermediate = config["num_hidden_layers"], config["intermediate_size"]
        vocabulary, tied = config["vocab_size"], bool(config.get("tie_word_embeddings", False))
        layer = 2 * hidden * head_dim * (heads + kv_heads) + 3 * hidden * intermediate
        weights = layers * layer + vocabulary * hidden * (1 if tied else 2)
        return cls(
            hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary, weights, tied
        )

    @property
    def layer_weights(self) -> int:
        """Weights of one layer."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return (self.weights - embeddings) // self.layers

    def adapter_weights(self, rank: int) -> int:
        """Weights of LoRA adapters on every linear layer but the head: r·(in + out) each."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * (self.hidden + queries) + 2 * (self.hidden + keys)
        return self.layers * rank * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True)
class Estimate:
    """Bytes on one GPU."""

    #: weights, gradients and Adam's two moments
    states: int
    #: bfloat16 copies of weights and the buffers through which processes exchange gradients
    working: int
    #: what a forward pass keeps for the backward pass, and the widest moment of it
    activations: int

    @property
    def total(self) -> int:
        return self.states + self.working + self.activations

    def __str__(self) -> str:
        parts = (self.states, self.working, self.activations)
        states, working, activations = (f"{part / GIB:.1f}" for part in parts)
        return (
            f"{self.total / GIB:.1f} GiB = {states} states + {working} working + "
            f"{activations} activations"
        )


def estimate(
    shape: Shape,
    *,
    rank: int | None,
    processes: int,
    fsdp: bool,
    micro_batch_size: int,
    checkpointing: bool,
    responses: int = RESPONSES,
    tokens: int = TOKENS,
) -> Estimate:
    """Memory per GPU of preference training in bfloat16, `responses` per prompt of `tokens` each.

    All weights trained: float32 master weights, gradients and two moments (16 bytes a weight).
    Adapters: the base in bfloat16 (2 bytes a weight) and 16 bytes a weight of the adapters.
    Working: autocast's bfloat16 copies, or, sharded, the embedding, the head and two layers
    gathered; DDP's buckets (4 bytes a trained weight). Activations are bfloat16: the input of each
    layer (checkpointing) or all that a layer keeps (its inputs, queries, keys, values, the three
    MLP products: about 8 widths + 3 MLP widths a token), one layer of that at the widest moment.
    The fused head's tiles are small and left out, as is the allocator's waste: leave a fifth free.
    """
    trained = shape.weights if rank is None else shape.adapter_weights(rank)
    frozen = 0 if rank is None else 2 * shape.weights
    share = processes if fsdp else 1
    states = (16 * trained + frozen) // share
    if fsdp:
        embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
        working = 2 * (embeddings + 2 * shape.layer_weights)
    else:
        working = (2 * trained if rank is None else 0) + (4 * trained if processes > 1 else 0)
    per_token = activation_bytes(shape.hidden, shape.intermediate, shape.layers, checkpointing, 2)
    return Estimate(states, working, micro_batch_size * responses * tokens * per_token)


def activation_bytes(
    hidden: int, intermediate: int, layers: int, checkpointing: bool, width: int
) -> int:
    """Bytes of activations per token, in numbers of `width` bytes; see `estimate`."""
    kept = width * (8 * hidden + 3 * intermediate)
    return layers * width * hidden + kept if checkpointing else layers * kept


def state_bytes(model: Any) -> int:
    """Bytes that training will add to a model: gradients and two moments of what is trained."""
    return 12 * sum(value.numel() for value in model.parameters() if value.requires_grad)
