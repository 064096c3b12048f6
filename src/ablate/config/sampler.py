"""Configuration of samplers: what draws the responses. Settings of the machine, kind apart."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from ablate.config.base import Node, neutral


class TransformersSampler(Node):
    """The model's own `generate`, batch by batch."""

    kind: Literal["transformers"]
    name: str
    #: responses drawn at a time; no influence on what is drawn
    batch_size: PositiveInt


class ContinuousSampler(Node):
    """transformers' continuous batching: finished responses make room for waiting ones."""

    kind: Literal["continuous"]
    name: str
    #: responses drawn at a time, at most
    max_requests: PositiveInt
    #: tokens of a forward pass, at most; null: the library's choice
    max_batch_tokens: PositiveInt | None
    #: share of the free GPU memory for the key-value cache
    memory_share: float = Field(gt=0, lt=1)


class VLLMSampler(Node):
    """vLLM, in this process (`colocate`) or as a server of its own."""

    kind: Literal["vllm"]
    name: str
    mode: Literal["colocate", "server"]
    #: of the server, http://host:port
    server_url: str | None
    #: seconds to wait for the server
    server_timeout: PositiveFloat
    #: how often a draw is begun anew after its server failed in the middle
    server_retries: NonNegativeInt = neutral(0)
    gpu_memory_utilization: float = Field(gt=0, le=1)
    tensor_parallel_size: PositiveInt
    #: responses drawn at a time, at most; null: the library's choice
    max_num_seqs: PositiveInt | None


SamplerConfig = Annotated[
    TransformersSampler | ContinuousSampler | VLLMSampler, Field(discriminator="kind")
]
