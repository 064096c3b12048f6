"""Tokenizers: closed word lists, bytes, and foreign ones with their chat templates.

A prompt and a response are always tokenised apart and their ids joined, so no token can merge
across the boundary between them and a response has the same ids after every prompt.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from ablate.datasets.chat import Conversation, Message, as_messages, render
from ablate.errors import ModelError
from ablate.models.missing import offline_help
from ablate.trl_compat.quiet import quiet

PAD, BOS, EOS, SEP, UNK = "<pad>", "<bos>", "<eos>", "<sep>", "<unk>"
_SPECIAL = (PAD, BOS, EOS, SEP, UNK)
#: stands for a prompt or response while a chat template's own words around it are found
_MARKER = "ablate0marker0text"


def build_tokenizer(vocabulary: list[str] | None) -> PreTrainedTokenizerFast:
    """A tokenizer for a closed vocabulary of words, or for free text (one token per byte).

    Args:
        vocabulary: the words, which hold no white space; None for UTF-8 bytes.

    Raises:
        ModelError: a word that is empty, holds white space, appears twice or is a special token.
    """
    # imported here because only a tokenizer that is built anew needs them
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    if vocabulary is None:
        symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
        table = {token: index for index, token in enumerate([*_SPECIAL, *symbols])}
        core = Tokenizer(models.BPE(vocab=table, merges=[]))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        core.decoder = decoders.ByteLevel()
    else:
        _check_words(vocabulary)
        table = {token: index for index, token in enumerate([*_SPECIAL, *vocabulary])}
        core = Tokenizer(models.WordLevel(vocab=table, unk_token=UNK))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(list(_SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        sep_token=SEP,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _check_words(vocabulary: list[str]) -> None:
    seen: set[str] = set(_SPECIAL)
    for word in vocabulary:
        if not word or word.split() != [word]:
            raise ModelError(f"the word {word!r} of the vocabulary is empty or holds white space")
        if word in seen:
            raise ModelError(f"the word {word!r} is in the vocabulary twice or is a special token")
        seen.add(word)


def is_built_here(tokenizer: PreTrainedTokenizerBase) -> bool:
    """True for tokenizers of `build_tokenizer`, whose prompts read `<bos> … <sep>`."""
    return (
        tokenizer.bos_token == BOS
        and tokenizer.sep_token == SEP
        and tokenizer.eos_token == EOS
        and tokenizer.chat_template is None
    )


def load_tokenizer(
    path_or_id: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    thinking: bool | None = None,
    must_end: bool = True,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub id; without a pad token it pads with EOS.

    It also knows which tokens the model's own generation settings end an answer at.

    Args:
        thinking: fixes `enable_thinking` in the chat template (where it is saved, too); None
            leaves the template as it is.
        must_end: refuse a tokenizer without EOS. One that only reads, as a classifier's, needs
            none.

    Raises:
        ModelError: no tokenizer there, one without an EOS token, or one whose chat template has
            no thinking mode though one is asked for.
    """
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(
                path_or_id, revision=revision, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError) as error:
        raise ModelError(offline_help(path_or_id, "tokenizer", error)) from error
    if tokenizer.eos_token_id is None and must_end:
        raise ModelError(
            f"the tokenizer of {path_or_id} has no EOS token, so no response could ever end; "
            "set `eos_token` in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        # safe: every mask here comes from lengths, never from comparing ids with the pad id
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    if thinking is not None and tokenizer.chat_template is not None:
        tokenizer.chat_template = _fixed_thinking(str(tokenizer.chat_template), thinking)
    tokenizer.stops_of_model = _stops_of_model(path_or_id, revision)
    return tokenizer


def _fixed_thinking(template: str, thinking: bool) -> str:
    if "enable_thinking" not in template:
        raise ModelError(
            f"base_model.thinking={str(thinking).lower()}, but the tokenizer's chat template knows "
            "no enable_thinking; leave base_model.thinking=null"
        )
    return "{%- set enable_thinking = " + str(thinking).lower() + " -%}\n" + template


def _stops_of_model(path_or_id: str, revision: str | None) -> list[int]:
    """The EOS ids of generation_config.json, of which instruct models may have several."""
    try:
        generation = GenerationConfig.from_pretrained(path_or_id, revision=revision)
    except (OSError, ValueError):
        return []
    ids = generation.eos_token_id
    return (
        [] if ids is None else [int(token) for token in (ids if isinstance(ids, list) else [ids])]
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer's files into an existing folder."""
    tokenizer.save_pretrained(folder)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Conversation) -> list[int]:
    """Token ids of a prompt, ready for a response to follow.

    A text is one user message. Tokenizers built here: `<bos> words <sep>`. Foreign ones with a
    chat template: the messages and the template's opening of the answer, its BOS and no second
    one. Others: the plain rendering (`ablate.datasets.chat.render`) with the tokenizer's own BOS
    rule (an EOS that it would append is removed).

    Raises:
        ModelError: a word outside a closed vocabulary, or a chat template that refuses the prompt.
    """
    if is_built_here(tokenizer):
        words = _plain(tokenizer, render(prompt))
        return [int(token) for token in (tokenizer.bos_token_id, *words, tokenizer.sep_token_id)]
    if tokenizer.chat_template is not None:
        rendered = _render(tokenizer, list(as_messages(prompt)), True)
        return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(render(prompt))["input_ids"])
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a response: no BOS, the text, and the token that ends an answer.

    Text that looks like a special token stays text: it cannot end an answer or open a turn.

    Raises:
        ModelError: a word outside a closed vocabulary.
    """
    return [*_plain(tokenizer, text), end_token_id(tokenizer)]


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Text of a response up to its end token, special tokens left out."""
    stops = set(stop_token_ids(tokenizer))
    cut = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return str(tokenizer.decode(ids[:cut], skip_special_tokens=True))


def end_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an answer.

    With a chat template this is the first special token that the template writes after an
    assistant message (`<|im_end|>`, `<|eot_id|>`), which need not be the tokenizer's EOS.
    """
    if tokenizer.chat_template is None:
        return int(tokenizer.eos_token_id)
    return _template_end(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=16)
def _template_end(tokenizer: PreTrainedTokenizerBase, template: str) -> int:
    turns = [
        {"role": "user", "content": _MARKER},
        {"role": "assistant", "content": _MARKER},
    ]
    rendered = _render(tokenizer, turns, False)
    tail = rendered.rpartition(_MARKER)[2]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for token in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if token in special:
            return int(token)
    return int(tokenizer.eos_token_id)


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a sampled response, the one responses are trained with first.

    Then the tokenizer's EOS and those of the model's generation settings.
    """
    stops = [end_token_id(tokenizer), int(tokenizer.eos_token_id)]
    stops += getattr(tokenizer, "stops_of_model", [])
    return list(dict.fromkeys(stops))


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[Message], open_answer: bool) -> str:
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_answer)
        )
    except (TemplateError, ValueError) as error:
        raise ModelError(
            f"the tokenizer's chat template does not take messages of the roles "
            f"{', '.join(turn['role'] for turn in turns)}: {error}"
        ) from error


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    ids = [int(token) for token in encoded["input_ids"]]
    if is_built_here(tokenizer):
        reserved = set(tokenizer.all_special_ids)
        strange = next((place for place, token in enumerate(ids) if token in reserved), None)
        if strange is not None:
            raise ModelError(
                f"{text.split()[strange]!r} is not a word of the model's vocabulary of "
                f"{len(tokenizer)} tokens; a model with a closed vocabulary serves only the world "
                "it was built for"
            )
    return ids
