"""One interface over what draws responses, so that stages need not know what it is."""

from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from ablate.config.dataset import Sampling
from ablate.config.sampler import SamplerConfig
from ablate.sampling.responses import Prompt, Report, SampledResponse, in_order


class Backend(Protocol):
    """Draws responses of one model."""

    #: where the randomness comes from, in the words of a record
    noise: str

    def draw(
        self,
        prompts: list[Prompt],
        indices: range,
        sampling: Sampling,
        seed: int,
        report: Report | None,
    ) -> list[SampledResponse]:
        """Responses with these indices to every prompt, in any order."""
        ...

    def close(self) -> None:
        """Frees memory and processes; nothing is drawn afterwards."""
        ...


class Sampler(AbstractContextManager["Sampler"]):
    """Draws responses of one model by the back end that the config names; use it in a `with`."""

    def __init__(self, name: str, backend: Backend) -> None:
        self.name = name
        self.backend = backend

    def draw(
        self,
        prompts: list[Prompt],
        num_responses: int,
        *,
        sampling: Sampling,
        seed: int,
        report: Report | None = None,
        first_index: int = 0,
    ) -> list[SampledResponse]:
        """Draws `num_responses` responses per prompt; sorted as the prompts came, then by index.

        Args:
            prompts: (id, token ids) per prompt; ids are unique and part of the noise's key.
            first_index: index of the first response (to extend a pool).

        Raises:
            ModelError: prompts that leave no room for `max_new_tokens`, or a back end that did
                not return every response.
        """
        indices = range(first_index, first_index + num_responses)
        drawn = self.backend.draw(prompts, indices, sampling, seed, report)
        return in_order(drawn, prompts, indices, self.name)

    def described(self) -> dict[str, str]:
        """What a record says of the sampler."""
        return {"name": self.name, "noise": self.backend.noise}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.backend.close()


def open_sampler(config: SamplerConfig, model: Any, tokenizer: Any) -> Sampler:
    """The sampler of a configuration, for a loaded model and its tokenizer.

    Raises:
        ModelError: vLLM is not installed, or its server does not answer.
    """
    backend: Backend
    if config.kind == "transformers":
        from ablate.sampling.sample import TransformersBackend

        backend = TransformersBackend(model, tokenizer, config.batch_size)
    elif config.kind == "continuous":
        from ablate.sampling.continuous import ContinuousBackend

        backend = ContinuousBackend(model, tokenizer, config)
    else:
        from ablate.sampling.vllm import VLLMBackend

        backend = VLLMBackend(model, tokenizer, config)
    return Sampler(config.name, backend)
