"""Noise that belongs to a response, not to the batch in which it happens to be drawn."""

import hashlib

import numpy as np
import torch

#: what records call the two kinds of noise
KEYED = "keyed by seed, prompt, response and token"
SEEDED = "the sampler's own, seeded by seed, prompt and response"

#: vLLM takes seeds of 64 bits with a sign; numbers of responses are added to what is drawn here
SEED_BITS = 62


def uniforms(seed: int, prompt_id: str, index: int, count: int) -> np.ndarray:
    """float64[count] in [0, 1): the noise of one response; longer counts extend shorter ones."""
    key = _key(f"sample|{seed}|{index}|{prompt_id}")
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def noise_table(rows: list[tuple[str, int]], seed: int, count: int) -> torch.Tensor:
    """float64[R, count]: the noise of R responses, given as (prompt id, index)."""
    return torch.from_numpy(np.stack([uniforms(seed, name, index, count) for name, index in rows]))


def prompt_seed(seed: int, prompt_id: str) -> int:
    """The seed of response 0 to a prompt, for samplers with generators of their own.

    Response i has this number plus i, which is how vLLM numbers the n responses of one request.
    """
    return _key(f"request|{seed}|{prompt_id}") % 2**SEED_BITS


def choose(scores: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """int[R, 1]: the inverse of each row's cumulative distribution at a number.

    Args:
        scores: float[R, V] logits after temperature and cuts.
        noise: float64[R, 1] in [0, 1).
    """
    cumulative = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
    # scaling by the total instead of dividing by it keeps the last token with mass reachable
    token = torch.searchsorted(cumulative, noise * cumulative[:, -1:], right=True)
    return token.clamp(max=scores.shape[1] - 1)


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
