"""Tokenizers: exact round trips, boundaries, and chat templates' own end of turn."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ablate.errors import ModelError
from ablate.models.tokenizer import (
    build_tokenizer,
    decode_response,
    encode_prompt,
    encode_response,
    end_token_id,
    load_tokenizer,
    stop_token_ids,
)

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def words():
    return build_tokenizer(["list", "two", "rome", "oslo"])


@pytest.fixture(scope="module")
def byte_level():
    return build_tokenizer(None)


def _chat_tokenizer():
    """A foreign byte-level tokenizer whose turns end in <|im_end|> while its EOS is another."""
    special = ["<|end|>", "<|im_start|>", "<|im_end|>", "<s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    table = {token: index for index, token in enumerate([*special, *alphabet])}
    core = Tokenizer(models.BPE(vocab=table, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|end|>", bos_token="<s>", pad_token="<|end|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture
def chat():
    return _chat_tokenizer()


def test_word_prompt_is_bos_words_sep_and_response_ends_with_eos(words):
    table = words.get_vocab()
    assert encode_prompt(words, "list two") == [
        table[token] for token in ("<bos>", "list", "two", "<sep>")
    ]
    ids = encode_response(words, "oslo rome")
    assert ids == [table[token] for token in ("oslo", "rome", "<eos>")]
    assert decode_response(words, ids) == "oslo rome"
    assert decode_response(words, [*ids, table["rome"]]) == "oslo rome"  # nothing after the end


@pytest.mark.parametrize("text", ["list paris", "<eos>", "rome <pad>"])
def test_words_outside_a_closed_vocabulary_are_named(words, text):
    stranger = next(word for word in text.split() if word not in ("list", "rome"))
    with pytest.raises(ModelError, match=stranger):
        encode_response(words, text)


@pytest.mark.parametrize("vocabulary", [["a", "a"], ["a b"], [""], ["<eos>"]])
def test_a_broken_vocabulary_is_refused(vocabulary):
    with pytest.raises(ModelError):
        build_tokenizer(vocabulary)


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_byte_tokenizer_returns_any_text_exactly(byte_level, text):
    ids = encode_response(byte_level, text)
    assert len(ids) == len(text.encode()) + 1
    assert decode_response(byte_level, ids) == text


def test_special_words_in_free_text_stay_text(byte_level, chat):
    for tokenizer, text in ((byte_level, "a<eos>b<sep>"), (chat, "x<|im_end|>y<|end|>")):
        ids = encode_response(tokenizer, text)
        ends = set(stop_token_ids(tokenizer))
        assert not ends & set(ids[:-1])
        assert ids[-1] in ends
        assert decode_response(tokenizer, ids) == text


def test_chat_template_turn_ends_with_its_own_token(chat):
    table = chat.get_vocab()
    assert end_token_id(chat) == table["<|im_end|>"] != chat.eos_token_id
    assert stop_token_ids(chat) == [table["<|im_end|>"], table["<|end|>"]]


CHAT = _chat_tokenizer()


@settings(max_examples=30, deadline=None)
@given(prompt=st.text("ab c?", min_size=1), answer=st.text("xy z\n", min_size=1))
def test_prompt_and_response_join_to_the_rendered_conversation(prompt, answer):
    chat = CHAT
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    whole = chat(chat.apply_chat_template(turns, tokenize=False), add_special_tokens=False)[
        "input_ids"
    ]
    joined = encode_prompt(chat, prompt) + encode_response(chat, answer)
    assert joined == whole[: len(joined)]
    # what the template writes after the end of the turn is not part of the answer
    assert chat.decode(whole[len(joined) :]) == "\n"
    bos = chat.bos_token_id
    assert joined.count(bos) == 1


def test_template_that_refuses_a_single_user_message_is_explained(chat):
    chat.chat_template = "{{ raise_exception('needs a system turn') }}"
    with pytest.raises(ModelError, match="needs a system turn"):
        encode_prompt(chat, "hello")


def test_plain_foreign_tokenizer_keeps_its_bos_rule(chat):
    chat.chat_template = None
    ids = encode_prompt(chat, "ab")
    assert len(ids) == 2  # this tokenizer adds no BOS by itself, so none is invented
    assert encode_response(chat, "ab")[-1] == chat.eos_token_id


def test_saved_tokenizers_come_back_the_same(words, byte_level, chat, tmp_path):
    for number, tokenizer in enumerate((words, byte_level, chat)):
        folder = tmp_path / str(number)
        tokenizer.save_pretrained(folder)
        again = load_tokenizer(str(folder))
        text = "list two"
        assert encode_prompt(again, text) == encode_prompt(tokenizer, text)
        assert encode_response(again, text) == encode_response(tokenizer, text)
        assert stop_token_ids(again) == stop_token_ids(tokenizer)


def test_missing_tokenizer_says_what_to_download(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="hf download nobody/nothing-here"):
        load_tokenizer("nobody/nothing-here")


TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "two."},
    {"role": "user", "content": "three?"},
]


def test_messages_take_the_template_and_a_text_is_one_user_message(chat):
    whole = chat.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    assert encode_prompt(chat, TURNS) == chat(whole, add_special_tokens=False)["input_ids"]
    assert "<|im_start|>system" in chat.decode(encode_prompt(chat, TURNS))
    assert encode_prompt(chat, [{"role": "user", "content": "hi"}]) == encode_prompt(chat, "hi")


def test_models_without_a_template_read_the_plain_rendering(chat, byte_level):
    plain = "Be brief.\n\nHuman: one?\n\nAssistant: two.\n\nHuman: three?\n\nAssistant:"
    chat.chat_template = None
    assert chat.decode(encode_prompt(chat, TURNS)) == plain
    ids = encode_prompt(byte_level, TURNS)
    assert byte_level.decode(ids) == f"<bos>{plain}<sep>"
    assert len(ids) == len(plain) + 2


def test_a_template_without_system_messages_is_told_with_the_roles(chat):
    chat.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}" + CHATML
    )
    with pytest.raises(ModelError, match=r"roles system, user, assistant, user: System role not"):
        encode_prompt(chat, TURNS)
    assert encode_prompt(chat, TURNS[1:])
