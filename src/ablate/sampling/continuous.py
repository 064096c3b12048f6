"""Drawing responses by transformers' continuous batching, with the noise of `generate`.

A response that is finished makes room for the next one at once, so no batch waits for its longest
response. The next tokens are chosen by a logits processor of our own: as in `sample.py` they
depend on (seed, prompt, response, token) alone, so that scheduling changes no draw but for
rounding, and both back ends draw the same responses but for rounding.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from ablate.config.dataset import Sampling
from ablate.config.sampler import ContinuousSampler
from ablate.errors import ModelError
from ablate.models.tokenizer import stop_token_ids
from ablate.sampling.noise import KEYED, choose, noise_table
from ablate.sampling.responses import Prompt, Report, SampledResponse, as_response
from ablate.sampling.sample import check_room, warpers
from ablate.trl_compat.quiet import quiet

#: tokens per page of the cache and per forward pass on a CPU, where nothing is inferred from memory
CPU_PAGE, CPU_BATCH_TOKENS = 32, 1024
#: seconds without a finished response after which the generating thread is looked at
PATIENCE = 5.0
#: numbers of noise held at a time (128 MiB); more responses than that are drawn in parts
NOISE_NUMBERS = 2**24


class ContinuousBackend:
    """Draws with the continuous-batching manager of a model in memory, one manager per draw."""

    noise = KEYED

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ContinuousSampler
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = config

    def draw(
        self,
        prompts: list[Prompt],
        indices: range,
        sampling: Sampling,
        seed: int,
        report: Report | None,
    ) -> list[SampledResponse]:
        """Responses to every prompt, in the order in which they were finished.

        Raises:
            ModelError: generation broke off.
        """
        check_room(self.model, prompts, sampling)
        rows = [(name, index, ids) for name, ids in prompts for index in indices]
        size = max(self.config.max_requests, NOISE_NUMBERS // sampling.max_new_tokens)
        was_training = self.model.training
        drawn: list[SampledResponse] = []

        def progress(done: int) -> None:
            if report is not None:
                report(len(drawn) + done, len(rows), {})

        device = self.model.device
        on_gpu = [device] if device.type == "cuda" else []
        try:
            # the manager seeds the global generators, though nothing is drawn from them here
            with torch.random.fork_rng(devices=on_gpu), torch.no_grad(), quiet():
                for start in range(0, len(rows), size):
                    drawn += self._drawn(rows[start : start + size], sampling, seed, progress)
        finally:
            self.model.train(was_training)
        return drawn

    def close(self) -> None:
        """Nothing to free: a manager lives for one draw."""

    def _drawn(
        self,
        rows: list[tuple[str, int, list[int]]],
        sampling: Sampling,
        seed: int,
        progress: Callable[[int], None],
    ) -> list[SampledResponse]:
        limit = sampling.max_new_tokens
        stops = stop_token_ids(self.tokenizer)
        noise = noise_table([(name, index) for name, index, _ in rows], seed, limit)
        choice = KeyedRequests(noise.to(self.model.device), [len(ids) for _, _, ids in rows])
        longest = max(len(ids) for _, _, ids in rows) + limit
        model: Any = self.model
        manager = model.init_continuous_batching(
            # the token is chosen by `choice`, which leaves one; so nothing is sampled here
            generation_config=GenerationConfig(
                max_new_tokens=limit,
                do_sample=False,
                eos_token_id=stops,
                pad_token_id=self.tokenizer.pad_token_id,
            ),
            continuous_batching_config=self._settings(longest, len(rows)),
        )
        processors = ContinuousBatchingLogitsProcessorList(
            LogitsProcessorList([*warpers(sampling), choice])
        )
        processors.tensors_required = 1  # the list counts only processors that it converted itself
        manager.logit_processor = processors
        drawn: list[SampledResponse] = []
        try:
            manager.warmup()
            manager.start()
            places = {}
            for row, (_, _, ids) in enumerate(rows):
                name = manager.add_request(ids, request_id=f"row-{row}", noise_row=row)
                places[name] = row
            while len(drawn) < len(rows):
                result = manager.get_result(timeout=PATIENCE)
                if result is None:
                    if not manager.is_running():
                        raise ModelError(_broken_off(manager, len(drawn), len(rows)))
                    continue
                if result.error is not None:
                    raise ModelError(f"sampler=continuous failed on a prompt: {result.error}")
                if result.is_finished():
                    name, index, _ = rows[places[result.request_id]]
                    drawn.append(as_response(name, index, result.generated_tokens, stops))
                    progress(len(drawn))
        finally:
            manager.stop(block=True, hard_stop=len(drawn) < len(rows))
            manager.destroy()
        return drawn

    def _settings(self, longest: int, rows: int) -> ContinuousBatchingConfig:
        requests = min(self.config.max_requests, rows)
        common: dict[str, Any] = {"max_requests_per_batch": requests, "allow_block_sharing": True}
        if self.model.device.type == "cuda":
            return ContinuousBatchingConfig(
                max_memory_percent=self.config.memory_share,
                max_batch_tokens=self.config.max_batch_tokens,
                **common,
            )
        return ContinuousBatchingConfig(
            page_size=CPU_PAGE,
            num_blocks=requests * (math.ceil(longest / CPU_PAGE) + 1),
            max_batch_tokens=self.config.max_batch_tokens or max(CPU_BATCH_TOKENS, longest),
            **common,
        )


class KeyedRequests(ContinuousBatchingLogitsProcessor):
    """`KeyedChoice` for requests: each names its row of the noise.

    The token's place in its response follows from the tokens whose keys and values are stored,
    so that a request that was interrupted and begun again draws what it would have drawn.
    """

    supported_kwargs: ClassVar[dict[str, type]] = {"noise_row": int}
    ignored_kwargs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, noise: torch.Tensor, prompt_lengths: Sequence[int]) -> None:
        self.noise = noise  # float64[R, T]
        self.prompt_lengths = prompt_lengths

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """The first number of the first row, for rows that only fill up a batch."""
        int32_tensor.fill_(0)

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """int32[n]: where in the flattened noise each request finds its number."""
        places = []
        limit = self.noise.shape[1]
        for request in requests_with_new_token:
            row = request.state.logit_processor_kwargs.get("noise_row")
            if row is None:  # requests that the library makes up to warm up
                places.append(0)
                continue
            token = request.state.position_offset - self.prompt_lengths[row]
            # one token beyond the limit may be computed ahead, and is thrown away
            places.append(row * limit + min(token, limit - 1))
        return torch.tensor(places, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """scores: float[R, V] after temperature and cuts; one token is left in each row."""
        numbers = self.noise.flatten()[tensor_arg[: scores.shape[0]].long()]
        token = choose(scores, numbers[:, None])
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def _broken_off(manager: Any, done: int, total: int) -> str:
    cause = manager.background_thread_status.fatal_error
    return (
        f"sampler=continuous broke off after {done} of {total} responses: {cause or 'no reason'}. "
        "Lower sampler.max_requests or sampler.memory_share, or use sampler=transformers"
    )
