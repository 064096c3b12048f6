"""Packed rows: what sees what, how little is padding, and the same log-probs as single rows."""

from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.integrations import flex_attention as integration

from ablate.models.packing import MAX_PADDING, Packing, pack, text_rows, trees_of
from ablate.models.sharing import attending, attention, dense_mask, mask_function, why_not
from ablate.trl_compat.fused_head import attach, detach, token_values
from ablate.trl_compat.quiet import quiet

SHAPE = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 32, "initializer_range": 0.4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
#: windows of three tokens, so that they matter in the shortest texts
ARCHITECTURES = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": 3}),
    "qwen2": (Qwen2Config, {}),
    "qwen2 sliding": (
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3Config, {}),
    "gemma": (GemmaConfig, {}),
    "gemma2": (Gemma2Config, {"sliding_window": 3}),
    "gemma3": (Gemma3TextConfig, {"sliding_window": 3}),
    "gpt2": (GPT2Config, {"n_embd": 16, "n_head": 2, "n_layer": 2}),
}
#: token 0 is padding; an owner has a prompt and its responses
OWNERS = st.lists(
    st.tuples(
        st.lists(st.integers(1, 39), min_size=1, max_size=9),
        st.lists(st.lists(st.integers(1, 39), min_size=1, max_size=8), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=6,
)
PACKINGS = st.sampled_from([Packing(0.0), Packing(0.05), Packing(2.0), Packing(0.01, 16)])


@pytest.fixture(scope="module")
def models():
    made = {}

    def get(name):
        if name not in made:
            kind, changes = ARCHITECTURES[name]
            torch.manual_seed(0)
            with quiet():
                made[name] = AutoModelForCausalLM.from_config(kind(**{**SHAPE, **changes})).eval()
            attach(made[name], ("log_sum_sq_probs",))
        return made[name]

    return get


def flat(owners):
    texts = [(prompt, response) for prompt, responses in owners for response in responses]
    return texts, [place for place, (_, some) in enumerate(owners) for _ in some]


def scored(model, texts, owners, packing):
    """Log-probs, Σ π², and the gradient of a weighted sum of the log-probs."""
    rows = text_rows(texts, owners, 0, packing)
    mask = None if packing is None else attention(model, rows)
    logps, squares = token_values(model, rows, ("log_probs", "log_sum_sq_probs"), mask)
    weights = torch.linspace(-1, 1, len(logps))
    gradient = torch.autograd.grad((weights * logps).sum(), list(model.parameters()))
    return logps.detach(), squares.detach(), gradient


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=12, deadline=None)
@given(OWNERS, PACKINGS)
def test_packed_rows_give_the_log_probs_and_gradients_of_single_rows(models, name, owners, packing):
    """Ragged responses, one-token responses, prompts of one token, rows left half empty."""
    model, (texts, whose) = models(name), flat(owners)
    alone, squares, gradient = scored(model, texts, whose, None)
    packed, other, same = scored(model, texts, whose, packing)
    assert torch.allclose(packed, alone, atol=1e-4, rtol=0)
    assert torch.allclose(other, squares, atol=1e-4, rtol=0)
    scale = max(float(value.abs().max()) for value in gradient)
    for left, right in zip(same, gradient, strict=True):
        assert torch.allclose(left, right, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_plain_rows_are_the_models_own_log_probs(models, name):
    """One unpadded forward pass of the model as it comes, so that both ways cannot err alike."""
    model = models(name)
    texts, whose = flat([([5, 6, 7, 8, 9, 3], [[10, 11, 12, 13, 2], [14]]), ([4], [[6, 7, 2]])])
    packed, _, _ = scored(model, texts, whose, Packing(0.0))
    expected = []
    detach(model)
    with torch.no_grad():
        for prompt, response in texts:
            logits = model(torch.tensor([prompt + response])).logits[0].double()
            table = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            expected.append(table[range(len(response)), response])
    attach(model, ("log_sum_sq_probs",))
    assert torch.allclose(packed.double(), torch.cat(expected), atol=1e-4, rtol=0)


#: FlexAttention on a CPU takes heads of 16 and rows of whole blocks
FLEX = {"hidden_size": 32, "head_dim": 16, "max_position_embeddings": 512}


@pytest.mark.parametrize("name", ["llama", "qwen2 sliding", "qwen3", "gemma3"])
def test_flex_attention_gives_the_log_probs_of_single_rows(name, monkeypatch):
    """Its forward pass as torch runs it uncompiled; only a GPU has the compiled kernel."""
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(
        integration, "compile_friendly_flex_attention",
        lambda *inputs, training=False, **more: flex.flex_attention(*inputs, **more),
    )  # fmt: skip
    kind, changes = ARCHITECTURES[name]
    torch.manual_seed(0)
    with quiet():
        model = AutoModelForCausalLM.from_config(kind(**{**SHAPE, **FLEX, **changes})).eval()
    attach(model)
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(1, 40, (n,), generator=draw).tolist() for n in (20, 1, 33)]
    answers = [torch.randint(1, 40, (n,), generator=draw).tolist() for n in (15, 1, 9, 22)]
    texts, owners = flat([(prompt, answers) for prompt in prompts])
    alone = token_values(model, text_rows(texts, owners, 0, None), ("log_probs",))[0]
    rows = text_rows(texts, owners, 0, Packing(0.0, 128))
    assert rows["input_ids"].shape[1] % 128 == 0
    with attending(model, "flex_attention"), torch.no_grad():
        mask = attention(model, rows)
        packed = token_values(model, rows, ("log_probs",), mask)[0]
    kinds = mask.values() if isinstance(mask, dict) else [mask]
    assert all(isinstance(one, BlockMask) for one in kinds)
    assert torch.allclose(packed, alone, atol=1e-4, rtol=0)
    # the mask matters: with every response seeing those before it, the same call is far off
    rows["branch"] = rows["branch"].clamp(max=1)
    with attending(model, "flex_attention"), torch.no_grad():
        wrong = token_values(model, rows, ("log_probs",), attention(model, rows))[0]
    assert (wrong - alone).abs().max() > 0.01


@given(OWNERS, PACKINGS, st.sampled_from([None, 1, 3]))
@settings(max_examples=60, deadline=None)
def test_a_token_sees_its_prompt_and_its_own_response(owners, packing, window):
    """The dense mask, FlexAttention's own evaluation of ours, and the rule in plain Python."""
    rows = text_rows(*flat(owners), 0, packing)
    tree, branch, places = rows["tree"], rows["branch"], rows["position_ids"]
    dense = dense_mask(tree, branch, places, window)
    count, length = tree.shape
    sees = mask_function(tree, branch, places, window)
    assert torch.equal(dense, create_mask(sees, count, None, length, length, device="cpu"))
    for row in range(count):
        for query in range(length):
            for key in range(length):
                near = window is None or int(places[row, query] - places[row, key]) < window
                own = branch[row, key] in (0, branch[row, query])
                expected = key <= query and tree[row, key] == tree[row, query] and own and near
                assert bool(dense[row, 0, query, key]) == bool(expected)
            assert dense[row, 0, query].any(), "attention over nothing is not a number"


@given(OWNERS)
@settings(max_examples=60, deadline=None)
def test_each_text_can_be_read_off_the_rows(owners):
    """Walking back from the place that predicts a response's last token gives the whole text."""
    texts, whose = flat(owners)
    rows = text_rows(texts, whose, 0, Packing(0.0))
    width = rows["input_ids"].shape[1]
    for number, (prompt, response) in enumerate(texts):
        mine = rows["text"] == number
        assert rows["target"][mine].tolist() == response
        assert rows["place"][mine].tolist() == list(range(len(response)))
        line, end = divmod(int(rows["source"][mine][-1]), width)
        tree, branch = (rows[name][line] for name in ("tree", "branch"))
        seen = (tree == tree[end]) & ((branch == 0) | (branch == branch[end]))
        seen &= torch.arange(width) <= end
        assert rows["input_ids"][line][seen].tolist() == [*prompt, *response[:-1]]
        assert rows["position_ids"][line][seen].tolist() == list(range(int(seen.sum())))


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=80),
    st.floats(0, 0.01),
    st.sampled_from([1, 16, 128]),
)
@example([1, 1, 1, 61, *[103] * 4, *[300] * 5], 0.0, 16)
def test_padding_stays_under_five_percent(lengths, cost, multiple):
    """A step that makes a single row is filled up to a whole block, and no further."""
    rows = pack(lengths, Packing(cost, multiple))
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    width = max(sum(lengths[item] for item in row) for row in rows)
    width = -(-width // multiple) * multiple
    if len(rows) == 1:
        assert width - sum(lengths) < multiple
    else:
        area = width * len(rows)
        # a quotient of floats would be past 5 % where the share is just that
        assert Fraction(area - sum(lengths), area) <= Fraction(str(MAX_PADDING))


def test_equal_lengths_are_not_joined():
    """A longer row saves nothing and costs attention."""
    assert pack([70] * 12, Packing(0.01)) == [[item] for item in range(12)]


def test_a_prompt_is_repeated_where_attention_would_cost_more():
    texts = [([1] * 4, [5] * 200) for _ in range(8)]
    owners = [0] * 8
    assert len(trees_of(texts, owners, Packing(0.0))) == 1
    assert len(trees_of(texts, owners, Packing(1.0))) == 8
    # a long prompt is worth sharing even then
    texts = [([1] * 500, [5] * 2) for _ in range(8)]
    assert len(trees_of(texts, owners, Packing(1.0))) == 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BloomConfig(vocab_size=40, hidden_size=16, n_layer=1, n_head=2), "no position_ids"),
        (MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1), "another kind"),
        (
            Llama4TextConfig(
                vocab_size=40, hidden_size=16, intermediate_size=16, intermediate_size_mlp=16,
                num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
                num_local_experts=2, pad_token_id=0,
            ),
            "chunked_attention",
        ),
    ],
    ids=["no position ids", "recurrent", "chunked"],
)  # fmt: skip
def test_what_cannot_take_packed_rows_is_found_out(config, reason):
    with quiet():
        model = AutoModelForCausalLM.from_config(config)
    assert reason in why_not(model)


def test_a_model_that_scores_packed_rows_otherwise_is_found_out():
    """Positions that a model counts by itself do not begin anew behind the prompt."""
    with quiet():
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).eval()
    inner = model.model.forward

    def deaf(*args, position_ids=None, **kwargs):
        return inner(*args, **kwargs)

    model.model.forward = deaf
    assert "differ" in why_not(model)
    del model.model.forward
    assert "forward" not in vars(model), "what was put on for the trial has been taken off"


@pytest.mark.parametrize(
    "name", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"]
)
def test_known_architectures_take_them(models, name):
    assert why_not(models(name)) is None
