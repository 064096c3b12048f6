"""Over-long examples: refused, left out or cut, and counted; one token per byte makes it exact."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.config.dataset import Lengths
from ablate.errors import ModelError
from ablate.models.fit import Fitter
from ablate.models.tokenizer import build_tokenizer, encode_prompt, encode_response

BYTES = build_tokenizer(None)
TURNS = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "a" * 20},
    {"role": "assistant", "content": "b" * 20},
    {"role": "user", "content": "c"},
]


def fitter(
    policy: str, context: int | None, prompt: int | None = None, total: int | None = None
) -> Fitter:
    plain = {"over_long": policy, "max_prompt_tokens": prompt, "max_tokens": total}
    return Fitter(BYTES, Lengths.model_validate(plain), context)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["drop", "truncate"]),
    st.integers(3, 60),
    st.text("ab", min_size=1, max_size=40),
    st.lists(st.text("xy", min_size=1, max_size=60), min_size=2, max_size=4),
)
def test_what_is_kept_fits_and_what_fits_is_kept(policy, limit, prompt, responses):
    fit = fitter(policy, limit)
    kept = fit.group(prompt, responses)
    whole = [encode_response(BYTES, text) for text in responses]
    before = encode_prompt(BYTES, prompt)
    if kept is None:
        assert len(before) + max(map(len, whole)) > limit
        assert sum(fit.counts.values()) > 0
        return
    assert kept.prompt_ids == before
    changed = 0
    for ids, given_back in zip(whole, kept.responses, strict=True):
        fits = len(before) + len(ids) <= limit
        changed += not fits
        if fits:
            assert given_back == (ids, True)
        elif policy == "drop":
            assert given_back is None
        else:
            assert given_back == (ids[: limit - len(before)], False)
    assert sum(fit.counts.values()) == changed


def test_a_prompt_is_shortened_by_its_earliest_turns_only():
    fit = fitter("truncate", 40)
    conversation, ids = fit.prompt(TURNS, 5)
    assert [m["role"] for m in conversation] == ["system", "user"]
    assert conversation[-1]["content"] == "c"
    assert len(ids) <= 35
    assert fit.counts == {"prompts shortened": 1}
    assert fit.prompt("z" * 50, 5) is None
    assert fit.counts["prompts too long, left out"] == 1
    assert fitter("drop", 40).prompt(TURNS, 5) is None
    assert fitter("drop", 400).prompt(TURNS, 5)[0] is TURNS


def test_limits_of_ones_own_hold_below_the_context():
    assert fitter("drop", 100, prompt=9).prompt("a" * 8, 0) is None
    assert fitter("drop", 100, prompt=10).prompt("a" * 8, 0) is not None
    assert fitter("truncate", 100, total=12).group("a" * 3, ["x" * 20]).responses == [
        (encode_response(BYTES, "x" * 20)[:7], False)
    ]
    # what is over the limit leaves its prompt at least half of it
    assert fitter("drop", None, total=12).group("a" * 4, ["x" * 20, "y"]).responses[0] is None
    assert fitter("drop", None).group("a" * 400, ["x" * 200]) is not None


def test_refusal_says_by_how_much_and_what_to_do():
    with pytest.raises(ModelError, match=r"a prompt has 12 tokens, but only 8 leave room"):
        fitter("error", 10).group("a" * 10, ["x"] * 2)
    with pytest.raises(ModelError, match=r"has 27 tokens, but at most 20.*over_long=drop"):
        fitter("error", 20).group("a" * 4, ["x" * 20])
    with pytest.raises(ModelError):
        Fitter(BYTES, None, 10).group("a" * 10, ["x"])
