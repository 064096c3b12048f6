"""Drawing responses by vLLM through TRL's generation module, in this process or on a server.

vLLM has generators of its own, so the noise of `sample.py` does not hold: the same seed draws
other responses here. Each response has a seed that depends on (seed, prompt, index) alone, so a
larger pool extends a smaller one, and other prompts do not matter, up to vLLM's own rounding:
its kernels give other last bits in other batches, unless VLLM_BATCH_INVARIANT=1 is set.
"""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from ablate.config.dataset import Sampling
from ablate.config.sampler import VLLMSampler
from ablate.errors import ModelError
from ablate.models.loading import context_length
from ablate.models.tokenizer import stop_token_ids
from ablate.sampling.noise import SEEDED, prompt_seed
from ablate.sampling.responses import Prompt, Report, SampledResponse, as_response
from ablate.sampling.sample import check_room
from ablate.trl_compat.quiet import quiet

#: requests under way at a time; TRL's client keeps as many connections
CONNECTIONS = 64
#: responses per call of the engine in this process, so that progress can be told
CHUNK = 4096


def check_installed() -> None:
    """Raise a ModelError that says what to install where vLLM is missing."""
    if importlib.util.find_spec("vllm") is None:
        raise ModelError(
            "sampler=vllm needs vLLM, which is not installed here. Install it (Linux with an "
            "NVIDIA GPU): pip install 'ablate[vllm]'. Or use sampler=transformers, or "
            "sampler=continuous on one GPU"
        )


class _RequestFailed(Exception):
    """The server answered with an error of its own: it is going down, or coming up."""


class VLLMBackend:
    """Draws with an engine or client that TRL's `VLLMGeneration` sets up and keeps in step."""

    noise = SEEDED

    def __init__(self, model: Any, tokenizer: Any, config: VLLMSampler) -> None:
        check_installed()
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self._generation: Any = None

    def draw(
        self,
        prompts: list[Prompt],
        indices: range,
        sampling: Sampling,
        seed: int,
        report: Report | None,
    ) -> list[SampledResponse]:
        """Responses to every prompt, in any order.

        Raises:
            ModelError: the engine or the server cannot be set up, or a response ended early.
        """
        check_room(self.model, prompts, sampling)
        if self.config.mode == "colocate":
            return self._whole(prompts, indices, sampling, seed, report)
        tries = 1 + self.config.server_retries
        attempt = 1
        while True:
            try:
                return self._whole(prompts, indices, sampling, seed, report)
            except (OSError, _RequestFailed) as error:
                # a server that comes back has other weights: it is set up anew
                self._generation = None
                if attempt == tries:
                    raise ModelError(
                        f"the vLLM server {self.config.server_url} failed in the middle of a draw, "
                        f"{attempt} of {tries} times: {_reason(error)}. Nothing of it is kept; "
                        "sampler.server_retries says how often it is tried again"
                    ) from error
                attempt += 1

    def _whole(
        self,
        prompts: list[Prompt],
        indices: range,
        sampling: Sampling,
        seed: int,
        report: Report | None,
    ) -> list[SampledResponse]:
        stops = stop_token_ids(self.tokenizer)
        generation = self._ready()
        if self.config.mode == "colocate":
            from vllm import SamplingParams

            batches = _from_engine(
                generation.llm, SamplingParams, prompts, indices, sampling, seed, stops
            )
        else:
            batches = _from_server(
                generation.vllm_client.generate, prompts, indices, sampling, seed, stops
            )
        drawn: list[SampledResponse] = []
        with quiet():
            for batch in batches:
                drawn += batch
                if report is not None:
                    report(len(drawn), len(prompts) * len(indices), {})
        return drawn

    def close(self) -> None:
        """Gives the engine's memory back; a server stays up."""
        generation, self._generation = self._generation, None
        if generation is None or self.config.mode == "server":
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        generation.llm = None
        del generation
        cleanup_dist_env_and_memory()

    def _ready(self) -> Any:
        if self._generation is None:
            from accelerate import Accelerator
            from trl.generation.vllm_generation import VLLMGeneration

            try:
                with quiet(), _same_environment():
                    self._generation = VLLMGeneration(
                        self.model,
                        Accelerator(),
                        self.tokenizer,
                        **generation_arguments(self.config, context_length(self.model)),
                    )
                    if self.config.mode == "server":
                        # an engine in this process has read the model's folder; a server has not
                        self._generation.sync_weights()
            except (ImportError, ConnectionError, ValueError, RuntimeError) as error:
                raise ModelError(_unavailable(self.config, error)) from error
        return self._generation


def generation_arguments(config: VLLMSampler, context: int | None) -> dict[str, Any]:
    """What TRL's `VLLMGeneration` is set up with, the model apart."""
    if config.mode == "server":
        return {
            "mode": "server",
            "server_base_url": config.server_url,
            "server_timeout": config.server_timeout,
        }
    return {
        "mode": "colocate",
        "tensor_parallel_size": config.tensor_parallel_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "max_model_length": context,
        "max_num_seqs": config.max_num_seqs,
    }


def request_arguments(sampling: Sampling, stops: Sequence[int]) -> dict[str, Any]:
    """vLLM's sampling parameters, the seed and the number of responses apart.

    All that a model's own generation defaults could change is given.
    """
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": sampling.max_new_tokens,
        "stop_token_ids": list(stops),
    }


def parse(
    name: str, index: int, ids: Sequence[int], stops: Sequence[int], limit: int
) -> SampledResponse:
    """A response of vLLM, which ends with a stop token or holds as many tokens as it may.

    Raises:
        ModelError: it ended otherwise: aborted, or stopped by a token that ablate does not know.
    """
    response = as_response(name, index, ids, stops)
    if not response.finished and len(response.ids) < limit:
        raise ModelError(
            f"vLLM ended a response to prompt {name!r} after {len(response.ids)} of {limit} "
            f"tokens without a stop token (known: {list(stops)}); the last one is "
            f"{response.ids[-1]}. Does the server serve the same model and tokenizer?"
        )
    return response


def _from_engine(
    engine: Any,
    make_params: Callable[..., Any],
    prompts: Sequence[Prompt],
    indices: range,
    sampling: Sampling,
    seed: int,
    stops: Sequence[int],
) -> Iterator[list[SampledResponse]]:
    """Batches of responses of an `LLM`; every response is a request with a seed of its own."""
    common = request_arguments(sampling, stops)
    rows = [(name, index, ids) for name, ids in prompts for index in indices]
    for start in range(0, len(rows), CHUNK):
        batch = rows[start : start + CHUNK]
        outputs = engine.generate(
            [{"prompt_token_ids": ids} for _, _, ids in batch],
            sampling_params=[
                make_params(n=1, seed=prompt_seed(seed, name) + index, detokenize=False, **common)
                for name, index, _ in batch
            ],
            use_tqdm=False,
        )
        yield [
            parse(name, index, output.outputs[0].token_ids, stops, sampling.max_new_tokens)
            for (name, index, _), output in zip(batch, outputs, strict=True)
        ]


def _from_server(
    generate: Callable[..., dict[str, Any]],
    prompts: Sequence[Prompt],
    indices: range,
    sampling: Sampling,
    seed: int,
    stops: Sequence[int],
) -> Iterator[list[SampledResponse]]:
    """Responses of TRL's client, prompt by prompt, many prompts under way at a time.

    A request for n responses with one seed gives response i the seed plus i: the seeds are those
    of `_from_engine`.
    """
    common = request_arguments(sampling, stops)
    named = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens")
    further = {key: value for key, value in common.items() if key not in named}

    def ask(prompt: Prompt) -> list[SampledResponse]:
        name, ids = prompt
        try:
            answer = generate(
                prompts=[ids],
                n=len(indices),
                logprobs=None,
                generation_kwargs={**further, "seed": prompt_seed(seed, name) + indices.start},
                **{key: common[key] for key in named},
            )
        except Exception as error:
            # TRL's client tells every status but 200 by a bare Exception
            if type(error) is not Exception:
                raise
            if str(error).startswith("Request failed: 5"):
                raise _RequestFailed(str(error)) from error
            raise ModelError(f"the vLLM server refused a draw: {_reason(error)}") from error
        return [
            parse(name, index, tokens, stops, sampling.max_new_tokens)
            for index, tokens in zip(indices, answer["completion_ids"], strict=True)
        ]

    with ThreadPoolExecutor(max_workers=CONNECTIONS) as pool:
        waiting = [pool.submit(ask, prompt) for prompt in prompts]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            for future in waiting:
                future.cancel()


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    """TRL sets the variables of a rendezvous for vLLM; later stages are to find none of them."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


def _reason(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _unavailable(config: VLLMSampler, error: Exception) -> str:
    reason = _reason(error)
    if config.mode == "server":
        return (
            f"the vLLM server {config.server_url} cannot be used: {reason}\nStart it with "
            "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config "
            '\'{"backend": "nccl"}\', and give its address as sampler.server_url'
        )
    return (
        f"vLLM cannot be set up in this process: {reason}\nLower "
        "sampler.gpu_memory_utilization if memory is short, or use sampler=transformers"
    )
