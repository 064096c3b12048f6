"""Log-probabilities against a plain forward pass, one sequence at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from ablate.errors import ModelError
from ablate.models.logps import (
    batches_by_length,
    response_logps,
    response_token_logps,
    token_kl,
)
from ablate.models.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer(list("abcdefgh"))
ITEMS = [
    ([1, 5, 6, 3], [[7, 2], [8, 9, 10, 2], [11]]),
    ([1, 12, 3], [[5, 5, 5, 5, 5, 5, 2]]),
    ([1, 5, 6, 7, 8, 9, 3], [[6, 2], [2]]),
]


def _model(seed, dtype=torch.float32):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, max_position_embeddings=16,
        tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


def _by_hand(model, prompt, response):
    """float64 log-probabilities of the response's tokens, by one unpadded forward pass."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0].double()
    table = logits.log_softmax(dim=-1)
    places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return [float(table[place, token]) for place, token in zip(places, response, strict=True)]


@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
def test_response_logps_are_those_of_a_plain_forward(batch_tokens):
    model = _model(0)
    sums = response_logps(model, TOKENIZER, ITEMS, batch_tokens)
    tokens = response_token_logps(model, TOKENIZER, ITEMS, batch_tokens)
    for (prompt, responses), line, parts in zip(ITEMS, sums, tokens, strict=True):
        for response, total, by_token in zip(responses, line, parts, strict=True):
            expected = _by_hand(model, prompt, response)
            assert by_token == pytest.approx(expected, abs=2e-5)
            assert total == pytest.approx(sum(expected), abs=5e-5)
    assert "forward" not in model.__dict__  # the fused head has been taken off


def test_bfloat16_models_are_summed_in_float32():
    """bfloat16 sums of 40 tokens would be off by whole units in the third digit."""
    model = _model(0, torch.bfloat16)
    long = [([1, 3], [[5 + index % 8 for index in range(14)]])]
    total = response_logps(model, TOKENIZER, long, 1000)[0][0]
    with torch.no_grad():
        hidden = model.model(torch.tensor([long[0][0] + long[0][1][0]])).last_hidden_state
    logits = hidden[0].double() @ model.get_output_embeddings().weight.double().T
    table = logits.detach().log_softmax(-1)
    expected = sum(float(table[1 + place, token]) for place, token in enumerate(long[0][1][0]))
    assert total == pytest.approx(expected, abs=1e-4)


def test_token_kl_is_the_divergence_summed_over_the_vocabulary():
    policy, reference = _model(0), _model(1)
    results = token_kl(policy, reference, TOKENIZER, ITEMS, 30)
    for (prompt, responses), line in zip(ITEMS, results, strict=True):
        for response, result in zip(responses, line, strict=True):
            assert result.logp_policy == pytest.approx(
                sum(_by_hand(policy, prompt, response)), abs=5e-5
            )
            assert result.logp_reference == pytest.approx(
                sum(_by_hand(reference, prompt, response)), abs=5e-5
            )
            ids = torch.tensor([prompt + response])
            with torch.no_grad():
                p = policy(ids).logits[0, len(prompt) - 1 : -1].double().softmax(-1)
                q = reference(ids).logits[0, len(prompt) - 1 : -1].double().softmax(-1)
            expected = sum(
                float(a * (a / b).log()) for a, b in zip(p.flatten(), q.flatten(), strict=True)
            )
            assert result.kl == pytest.approx(expected, abs=1e-4)
            assert result.kl > 0
    same = token_kl(policy, policy, TOKENIZER, ITEMS, 30)
    assert all(result.kl == 0 for line in same for result in line)


def test_too_long_sequences_are_refused():
    with pytest.raises(ModelError, match="17 tokens"):
        response_logps(_model(0), TOKENIZER, [([1] * 10, [[5] * 7])], 100)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    budget=st.integers(1, 200),
)
def test_batches_hold_every_row_once_and_stay_within_the_budget(lengths, budget):
    batches = list(batches_by_length(lengths, budget))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        cost = len(batch) * max(lengths[place] for place in batch)
        assert cost <= budget or len(batch) == 1
