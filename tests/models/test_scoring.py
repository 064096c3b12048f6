"""Reward models: scores do not depend on padding; what is no reward model is refused."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from ablate.errors import ModelError
from ablate.models.scoring import classifier_outputs, load_reward_model, score_responses
from ablate.models.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer(list("abcdefgh"))


def _shape(**changes):
    return LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, max_position_embeddings=16,
        pad_token_id=TOKENIZER.pad_token_id, initializer_range=0.3, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LlamaForSequenceClassification(_shape(num_labels=1)).eval()


def test_scores_are_the_head_at_the_last_token(model):
    pairs = [([1, 5, 3], [6, 2]), ([1, 3], [7, 8, 9, 10, 2]), ([1, 5, 6, 7, 3], [2])]
    for batch_size in (1, 2, 3):
        scores = score_responses(model, TOKENIZER, pairs, batch_size)
        for (prompt, response), score in zip(pairs, scores, strict=True):
            with torch.no_grad():
                hidden = model.model(torch.tensor([prompt + response])).last_hidden_state[0, -1]
                expected = float(model.score(hidden))
            assert score == pytest.approx(expected, abs=1e-5)
    assert scores.dtype == np.float64


@pytest.mark.parametrize("pad", [None, 2, 7])
def test_a_config_whose_pad_is_not_the_tokenizers_changes_nothing(model, pad):
    """None: a model without padding; 2: it pads with EOS; 7: with a word of the vocabulary."""
    pairs = [([1, 5, 3], [6, 7, 2]), ([1, 3], [7, 8, 9, 10, 2]), ([1, 5, 6, 7, 3], [2])]
    wanted = score_responses(model, TOKENIZER, pairs, 1)
    before = model.config.pad_token_id
    model.config.pad_token_id = pad
    try:
        for batch_size in (1, 3):
            found = score_responses(model, TOKENIZER, pairs, batch_size)
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert model.config.pad_token_id == pad
    finally:
        model.config.pad_token_id = before


def test_answers_may_use_every_token_of_the_vocabulary(model):
    everything = list(range(len(TOKENIZER)))
    pairs = [(everything[1:], [0]), ([1, 3], [0, 0, 2]), ([1], [5])]
    wanted = [float(score_responses(model, TOKENIZER, [pair], 1)[0]) for pair in pairs]
    with torch.no_grad():
        for (prompt, response), score in zip(pairs, wanted, strict=True):
            hidden = model.model(torch.tensor([prompt + response])).last_hidden_state[0, -1]
            assert score == pytest.approx(float(model.score(hidden)), abs=1e-5)
    np.testing.assert_allclose(score_responses(model, TOKENIZER, pairs, 3), wanted, atol=1e-5)


def test_reward_models_come_back_from_disk(model, tmp_path):
    model.save_pretrained(tmp_path / "rm")
    again = load_reward_model(tmp_path / "rm", device="cpu")
    pairs = [([1, 5, 3], [6, 2])]
    assert score_responses(again, TOKENIZER, pairs, 1) == score_responses(
        model, TOKENIZER, pairs, 1
    )


def test_language_models_and_wide_classifiers_are_refused(tmp_path):
    LlamaForCausalLM(_shape()).save_pretrained(tmp_path / "lm")
    with pytest.raises(ModelError, match="not a reward model"):
        load_reward_model(tmp_path / "lm")
    LlamaForSequenceClassification(_shape(num_labels=3)).save_pretrained(tmp_path / "three")
    with pytest.raises(ModelError, match="3 outputs"):
        load_reward_model(tmp_path / "three")
    with pytest.raises(ModelError, match="does not exist"):
        load_reward_model(tmp_path / "nothing")


def test_one_output_of_several_is_the_score_that_is_asked_for(tmp_path):
    torch.manual_seed(0)
    LlamaForSequenceClassification(_shape(num_labels=3)).save_pretrained(tmp_path / "three")
    pairs = [([1, 5, 3], [6, 2]), ([1, 4], [7, 8, 2])]
    model = load_reward_model(tmp_path / "three", device="cpu", output=2)
    every = classifier_outputs(model, TOKENIZER, pairs, 1)
    assert every.shape == (2, 3)
    np.testing.assert_array_equal(score_responses(model, TOKENIZER, pairs, 1, 2), every[:, 2])
    with pytest.raises(ModelError, match="no output 3"):
        load_reward_model(tmp_path / "three", device="cpu", output=3)


def test_a_tokenizer_that_does_not_fit_its_model_is_refused(model):
    beyond = model.get_input_embeddings().weight.shape[0]
    with pytest.raises(ModelError, match=rf"gives the token {beyond}.*0 to {beyond - 1}"):
        score_responses(model, TOKENIZER, [([1, 5], [6, 2]), ([1, beyond], [2])], 1)
