"""Sampling: the model's own distribution, and noise that belongs to the response."""

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM

from ablate.config.dataset import Sampling
from ablate.errors import ModelError
from ablate.models.tokenizer import build_tokenizer
from ablate.sampling.sample import sample_responses, uniforms

TOKENIZER = build_tokenizer(list("abc"))
EOS = TOKENIZER.eos_token_id
PLAIN = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=5)
PROMPTS = [("p0", [1, 5, 3]), ("p1", [1, 6, 7, 5, 3]), ("p2", [1, 3]), ("p3", [1, 7, 7, 3])]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, max_position_embeddings=16,
        initializer_range=0.4,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


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


def _next_token_probabilities(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].double()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.6, 0, 1.0), (1.3, 3, 1.0), (1.0, 0, 0.7)]
)
def test_frequencies_follow_the_cut_softmax(model, temperature, top_k, top_p):
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=1)
    draws = _draw(model, prompts=[("x", [1, 5, 3])], n=4000, sampling=sampling, batch_size=4000)
    logits = _next_token_probabilities(model, [1, 5, 3]) / temperature
    probabilities = logits.softmax(-1).numpy()
    order = np.argsort(-probabilities)
    keep = np.ones_like(probabilities, dtype=bool)
    if top_k:
        keep[order[top_k:]] = False
    if top_p < 1:  # the smallest set whose mass reaches top_p
        enough = int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1
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
        expected = _next_token_probabilities(model, [*prompt, first]).softmax(-1).numpy()
        counts = np.bincount(seconds, minlength=len(expected))
        assert stats.chisquare(counts, len(seconds) * expected / expected.sum()).pvalue > 1e-3


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


def test_no_room_for_the_response_is_said_before_any_work(model):
    with pytest.raises(ModelError, match="context of 16"):
        _draw(model, prompts=[("x", [1] * 12)])


def test_progress_is_reported(model):
    seen = []
    _draw(model, n=4, batch_size=6, report=lambda done, total, _: seen.append((done, total)))
    assert seen == [(6, 16), (12, 16), (16, 16)]
