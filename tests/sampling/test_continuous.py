"""Continuous batching: the responses of `generate`, whatever the scheduler does."""

import pytest
import torch
from tinymodel import PLAIN, PROMPTS, TOKENIZER, tiny

from ablate.config.dataset import Sampling
from ablate.config.levels import read_level
from ablate.config.sampler import ContinuousSampler, TransformersSampler
from ablate.errors import ModelError
from ablate.sampling import continuous
from ablate.sampling.sampler import open_sampler

LEVEL = ContinuousSampler(**read_level("sampler", "continuous"))


@pytest.fixture(scope="module")
def model():
    return tiny()


def draw(model, config, n=6, **others):
    with open_sampler(config, model, TOKENIZER) as sampler:
        return sampler.draw(PROMPTS, n, **{"sampling": PLAIN, "seed": 3, **others})


@pytest.mark.parametrize(
    "sampling",
    [PLAIN, Sampling(temperature=0.7, top_p=0.9, top_k=5, max_new_tokens=8)],
    ids=["plain", "cut"],
)
def test_it_draws_what_generate_draws(model, sampling):
    plain = TransformersSampler(**read_level("sampler", "transformers"))
    expected = draw(model, plain, sampling=sampling)
    assert len({tuple(response.ids) for response in expected}) > 6
    assert draw(model, LEVEL, sampling=sampling) == expected


def test_scheduling_and_pool_size_change_nothing(model, monkeypatch):
    whole = draw(model, LEVEL)
    few = LEVEL.model_copy(update={"max_requests": 2, "max_batch_tokens": 16})
    assert draw(model, few) == whole
    assert draw(model, LEVEL, n=3, first_index=3) == [r for r in whole if r.index >= 3]
    monkeypatch.setattr(continuous, "NOISE_NUMBERS", 60)  # twelve responses at a time
    seen = []
    parts = draw(model, few, report=lambda done, total, _: seen.append((done, total)))
    assert parts == whole
    assert seen == [(done, 24) for done in range(1, 25)]


def test_the_model_is_given_back_as_it_was(model):
    model.train()
    attention, state = model.config._attn_implementation, torch.random.get_rng_state()
    try:
        draw(model, LEVEL)
        assert model.training
    finally:
        model.eval()
    assert model.config._attn_implementation == attention
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_that_breaks_in_the_middle_is_an_error_and_leaves_no_thread(model, monkeypatch):
    import threading

    own, calls = type(model).forward, []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("out of memory, say")
        return own(self, *args, **kwargs)

    before = threading.active_count()
    monkeypatch.setattr(type(model), "forward", failing)
    monkeypatch.setattr(continuous, "PATIENCE", 0.2)
    with pytest.raises(ModelError, match=r"sampler=continuous .*out of memory, say"):
        draw(model, LEVEL)
    assert threading.active_count() == before
