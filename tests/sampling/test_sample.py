"""Sampling: the model's own distribution, and noise that belongs to the response."""

import numpy as np
import pytest
import torch
from scipy import stats
from tinymodel import EOS, PLAIN, PROMPTS, TOKENIZER, next_token_logits, tiny

import ablate.sampling.sample as sample
from ablate.config.dataset import Sampling
from ablate.errors import ModelError
from ablate.sampling.noise import prompt_seed, uniforms
from ablate.sampling.sample import sample_responses


@pytest.fixture(scope="module")
def model():
    return tiny()


def _draw(model, prompts=PROMPTS, n=4, sampling=PLAIN, seed=0, batch_size=64, **others):
    return sample_responses(
        model, TOKENIZER, prompts, n, sampling=sampling, seed=seed, batch_size=batch_size, **others
    )


def test_batching_order_and_pool_size_change_nothing(model):
    whole = _draw(model, n=8)
    assert _draw(model, n=8, batch_size=1) == whole
    assert _draw(model, n=8, batch_size=7) == whole
    small = _draw(model, n=4)
    assert small == [response for response in whole if response.index < 4]
    assert small + _draw(model, n=4, first_index=4) != whole  # sorted by prompt, not by index
    extended = small + _draw(model, n=4, first_index=4)
    assert sorted(extended, key=lambda r: (r.prompt_id, r.index)) == whole
    turned = _draw(model, prompts=PROMPTS[::-1], n=8)
    assert sorted(turned, key=lambda r: (r.prompt_id, r.index)) == whole
    assert [(r.prompt_id, r.index) for r in whole] == [
        (name, index) for name, _ in PROMPTS for index in range(8)
    ]


def test_global_generators_are_neither_read_nor_moved(model):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.random.get_rng_state()
    first = _draw(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert _draw(model) == first
    assert _draw(model, seed=1) != first


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_prompts_that_are_computed_once_change_nothing(family, monkeypatch):
    """Copies of a prompt share its keys and values; batches of one response share nothing."""
    shared = []
    own = sample._shared_prompts

    def watched(*args):
        shared.append(own(*args) is not None)
        return own(*args)

    monkeypatch.setattr(sample, "_shared_prompts", watched)
    model = tiny(family)
    whole = _draw(model, n=8, batch_size=12)
    assert shared == [True, True, True]
    assert _draw(model, n=8, batch_size=1) == whole
    assert not any(shared[3:])


def test_a_sliding_window_is_left_to_the_model(monkeypatch):
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
    model = tiny("qwen2", **window)
    assert {type(layer).__name__ for layer in sample.DynamicCache(config=model.config).layers} == {
        "DynamicSlidingWindowLayer"
    }
    assert _draw(model, n=8, batch_size=12) == _draw(model, n=8, batch_size=1)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.6, 0, 1.0), (1.3, 3, 1.0), (1.0, 0, 0.7), (1.5, 4, 0.8), (1.0, 100, 1.0)],
)
def test_frequencies_follow_the_cut_softmax(model, temperature, top_k, top_p):
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=1)
    draws = _draw(model, prompts=[("x", [1, 5, 3])], n=4000, sampling=sampling, batch_size=4000)
    logits = next_token_logits(model, [1, 5, 3]) / temperature
    probabilities = logits.softmax(-1).numpy()
    order = np.argsort(-probabilities)
    keep = np.ones_like(probabilities, dtype=bool)
    if top_k:
        keep[order[top_k:]] = False
    if top_p < 1:  # the smallest set whose mass reaches top_p, of what top_k has left
        left = np.where(keep, probabilities, 0) / probabilities[keep].sum()
        enough = int(np.searchsorted(np.cumsum(left[order]), top_p)) + 1
        keep[order[enough:]] = False
    expected = np.where(keep, probabilities, 0)
    expected /= expected.sum()
    counts = np.bincount([response.ids[0] for response in draws], minlength=len(expected))
    assert counts[~keep].sum() == 0
    assert stats.chisquare(counts[keep], 4000 * expected[keep]).pvalue > 1e-3


def test_later_tokens_follow_the_model_too(model):
    """Second tokens, given each first token: the cache and the padding are right."""
    draws = _draw(
        model, prompts=[("x", [1, 5, 3]), ("y", [1, 6, 6, 6, 3])], n=4000, batch_size=8000
    )
    for name, prompt in (("x", [1, 5, 3]), ("y", [1, 6, 6, 6, 3])):
        mine = [r.ids for r in draws if r.prompt_id == name and r.ids[0] != EOS]
        first = max({ids[0] for ids in mine}, key=[ids[0] for ids in mine].count)
        seconds = [ids[1] for ids in mine if ids[0] == first]
        expected = next_token_logits(model, [*prompt, first]).softmax(-1).numpy()
        counts = np.bincount(seconds, minlength=len(expected))
        assert stats.chisquare(counts, len(seconds) * expected / expected.sum()).pvalue > 1e-3


def test_low_temperatures_approach_the_greedy_response(model):
    cold = Sampling(temperature=1e-4, top_p=1.0, top_k=0, max_new_tokens=5)
    greedy = {}
    for name, prompt in PROMPTS:
        ids: list[int] = []
        while len(ids) < 5 and EOS not in ids:
            ids.append(int(next_token_logits(model, [*prompt, *ids]).argmax()))
        greedy[name] = ids
    draws = _draw(model, n=20, sampling=cold)
    assert all(response.ids == greedy[response.prompt_id] for response in draws)
    one = _draw(model, sampling=PLAIN.model_copy(update={"temperature": 5.0, "top_k": 1}))
    assert all(response.ids == greedy[response.prompt_id] for response in one)
    warm = _draw(model, n=20)
    assert any(response.ids != greedy[response.prompt_id] for response in warm)


@pytest.mark.parametrize("limit", [1, 2, 11])
def test_no_response_is_longer_than_allowed(model, limit):
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=limit)
    draws = _draw(model, n=30, sampling=sampling)
    assert max(len(response.ids) for response in draws) == limit
    short = {(r.prompt_id, r.index): r.ids for r in _draw(model, n=30)}
    for response in draws:  # a longer limit goes on where a shorter one stops
        other = short[response.prompt_id, response.index]
        both = min(len(other), len(response.ids))
        assert response.ids[:both] == other[:both]


def test_an_immediate_end_is_a_response(model):
    draws = _draw(model, n=200, sampling=PLAIN.model_copy(update={"temperature": 3.0}))
    empty = [response for response in draws if response.ids == [EOS]]
    assert empty
    assert all(response.finished for response in empty)


def test_responses_end_at_the_end_token_and_nowhere_else(model):
    draws = _draw(model, n=50)
    for response in draws:
        assert response.finished == (response.ids[-1] == EOS)
        assert EOS not in response.ids[:-1]
        assert response.finished or len(response.ids) == PLAIN.max_new_tokens
    assert {response.finished for response in draws} == {True, False}


def test_a_models_own_generation_defaults_do_not_leak_in(model):
    expected = _draw(model)
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.max_length = 4
    try:
        assert _draw(model) == expected
        assert model.generation_config.repetition_penalty == 50.0  # and are put back
    finally:
        model.generation_config.repetition_penalty = 1.0
        model.generation_config.max_length = None


def test_noise_is_uniform_and_extends():
    noise = np.concatenate([uniforms(0, f"p{i}", j, 20) for i in range(50) for j in range(5)])
    assert stats.kstest(noise, "uniform").pvalue > 1e-3
    assert np.array_equal(uniforms(0, "p", 1, 50)[:20], uniforms(0, "p", 1, 20))
    # prompt ids and indices cannot run into each other
    assert uniforms(0, "1|p", 1, 1) != uniforms(0, "p", 11, 1)
    assert len({float(uniforms(s, "p", i, 1)[0]) for s in range(3) for i in range(3)}) == 9


def test_seeds_of_requests_are_apart_and_fit_64_bits():
    seeds = {prompt_seed(s, f"p{i}") for s in range(20) for i in range(200)}
    assert len(seeds) == 4000
    assert all(0 <= seed < 2**62 for seed in seeds)
    # responses are numbered from there; ranges of a million do not meet
    assert np.diff(sorted(seeds)).min() > 10**6


def test_no_room_for_the_response_is_said_before_any_work(model):
    with pytest.raises(ModelError, match="context of 16"):
        _draw(model, prompts=[("x", [1] * 12)])


def test_progress_is_reported(model):
    seen = []
    _draw(model, n=4, batch_size=6, report=lambda done, total, _: seen.append((done, total)))
    assert seen == [(6, 16), (12, 16), (16, 16)]
