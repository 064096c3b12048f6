"""Real families at toy size: prompts, stops and log-probs, from loading to a trained policy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, save
from peft import PeftModel

from ablate.config.dataset import Sampling
from ablate.config.levels import level_names, read_level
from ablate.config.model import SFT, BaseModelConfig, Lora
from ablate.config.training import TrainingConfig
from ablate.errors import ModelError
from ablate.models.loading import load_model
from ablate.models.logps import response_logps, token_kl
from ablate.models.tokenizer import (
    decode_response,
    encode_prompt,
    encode_response,
    end_token_id,
    load_tokenizer,
    stop_token_ids,
)
from ablate.objectives import make_objective
from ablate.sampling.sample import sample_responses
from ablate.training.groups import Group
from ablate.training.policy import train_policy
from ablate.training.sft import train_sft

NAMES = list(FAMILIES)
PROMPT, ANSWER = "name four cities, sorted", "cairo, lima\nand <|im_end|> oslo"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {name: save(name, root / name) for name in NAMES}


@pytest.fixture
def training():
    """Two steps of three prompts, as small as can be."""
    sizes = {"batch_size": 3, "micro_batch_size": None, "gradient_checkpointing": False}
    return TrainingConfig(**{**read_level("training", "default"), "lr": 1e-3, **sizes})


def thinking_of(name):
    return False if name == "qwen3" else None


# -- prompts and answers ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_prompt_and_answer_are_the_rendered_conversation(folders, name):
    family = FAMILIES[name]
    tokenizer = load_tokenizer(str(folders[name]), thinking=thinking_of(name))
    answer = ANSWER.replace("<|im_end|>", "of")
    joined = encode_prompt(tokenizer, PROMPT) + encode_response(tokenizer, answer)
    end = tokenizer.convert_tokens_to_ids(family.end)
    assert joined[-1] == end == end_token_id(tokenizer)
    if family.template is None:
        # a base model: the text after the family's own BOS, and EOS
        bos = tokenizer.convert_tokens_to_ids(family.bos)
        assert joined[0] == bos
        assert tokenizer.decode(joined[1:-1]) == PROMPT + answer
    else:
        turns = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": answer}]
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        assert whole.startswith(tokenizer.decode(joined))
        # what the template writes after the end of the turn is white space
        assert whole.removeprefix(tokenizer.decode(joined)).strip() == ""
    if family.bos is not None:
        assert joined.count(tokenizer.convert_tokens_to_ids(family.bos)) == 1


def test_thoughts_are_switched_by_the_template_and_stay_switched(folders, tmp_path):
    folder = str(folders["qwen3"])
    opening = {}
    for thinking in (None, True, False):
        tokenizer = load_tokenizer(folder, thinking=thinking)
        tokenizer.save_pretrained(tmp_path / str(thinking))
        again = load_tokenizer(str(tmp_path / str(thinking)))
        ids = encode_prompt(again, PROMPT)
        assert ids == encode_prompt(tokenizer, PROMPT)
        opening[thinking] = again.decode(ids).rpartition("<|im_start|>assistant\n")[2]
    assert opening == {None: "", True: "", False: "<think>\n\n</think>\n\n"}
    with pytest.raises(ModelError, match="knows no enable_thinking"):
        load_tokenizer(str(folders["gemma_instruct"]), thinking=False)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_stays_text_whatever_it_holds(folders, name):
    tokenizer = load_tokenizer(str(folders[name]))
    ids = encode_response(tokenizer, ANSWER)
    assert not set(ids[:-1]) & set(stop_token_ids(tokenizer))
    assert decode_response(tokenizer, ids) == ANSWER


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_pad_token_is_made_up_for(folders, name):
    tokenizer = load_tokenizer(str(folders[name]))
    assert tokenizer.pad_token_id is not None
    assert tokenizer.padding_side == "left"


# -- sampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_stop_of_the_model_ends_an_answer(folders, name):
    """Each of them is made certain in turn; generation settings of the folder change nothing."""
    family = FAMILIES[name]
    tokenizer, model = load_tokenizer(str(folders[name])), load_model(folders[name], device="cpu")
    wanted = tokenizer.convert_tokens_to_ids(family.stops)
    assert set(stop_token_ids(tokenizer)) == {*wanted, tokenizer.eos_token_id}
    assert stop_token_ids(tokenizer)[0] == end_token_id(tokenizer)
    prompts = [("p", encode_prompt(tokenizer, PROMPT))]
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=6)
    head = model.get_output_embeddings()
    plain = head.forward
    for stop in wanted:

        def only(hidden, stop=stop):
            logits = plain(hidden)
            return torch.full_like(logits, -50.0).index_fill(-1, torch.tensor([stop]), 50.0)

        head.forward = only
        (drawn,) = sample_responses(
            model, tokenizer, prompts, 1, sampling=sampling, seed=0, batch_size=4
        )
        assert (drawn.ids, drawn.finished) == ([stop], True)
        assert decode_response(tokenizer, drawn.ids) == ""


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_the_model_at_temperature_one(folders, name):
    """Not at the temperature of the folder's generation settings: first tokens by chi-square."""
    tokenizer, model = load_tokenizer(str(folders[name])), load_model(folders[name], device="cpu")
    prompt = encode_prompt(tokenizer, PROMPT)
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1).numpy()
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=1)
    drawn = sample_responses(
        model, tokenizer, [("p", prompt)], 2000, sampling=sampling, seed=1, batch_size=500
    )
    counts = np.bincount([sample.ids[0] for sample in drawn], minlength=len(expected))
    order = np.argsort(-expected)
    edges = np.searchsorted(np.cumsum(expected[order]), np.arange(0.1, 1, 0.1))
    bins = [part for part in np.split(order, edges) if len(part)]
    observed = np.array([counts[part].sum() for part in bins])
    wanted = np.array([expected[part].sum() for part in bins]) * 2000
    chi = float(((observed - wanted) ** 2 / np.maximum(wanted, 1e-9)).sum())
    assert chi < len(bins) + 5 * np.sqrt(2 * len(bins))


# -- log-probs and training ----------------------------------------------------------------------


def recomputed(model, prompt, response):
    """float64 log-prob of one response by one unpadded pass without cache or fused head."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response]), use_cache=False).logits[0].double()
    table = logits.log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return sum(float(table[p, token]) for p, token in zip(places, response, strict=True))


def groups_of(tokenizer, model, sampling_seed=0):
    texts = ["name four cities", "list three colours, please", "what is two plus seven?"] * 2
    prompts = [(str(n), encode_prompt(tokenizer, text)) for n, text in enumerate(texts)]
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=8)
    drawn = sample_responses(
        model, tokenizer, prompts, 2, sampling=sampling, seed=sampling_seed, batch_size=4
    )
    items = [
        (ids, [sample.ids for sample in drawn if sample.prompt_id == name]) for name, ids in prompts
    ]
    logps = response_logps(model, tokenizer, items, 256)
    return [
        Group(str(n), prompt, responses, ref_logps=row, rewards=[1.0, 0.0], pool_index=[0, 1])
        for n, ((prompt, responses), row) in enumerate(zip(items, logps, strict=True))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_from_loading_to_a_trained_policy(folders, name, training, tmp_path):
    """Load, SFT, sample, log-probs, preference training, evaluation: one family end to end."""
    tokenizer = load_tokenizer(str(folders[name]), thinking=thinking_of(name))
    model = load_model(folders[name], device="cpu", dtype="auto")
    assert model.dtype == torch.float32
    if name.startswith("llama"):
        # the scaled frequencies are in use, not the plain ones
        plain = 1.0 / 500000.0 ** (torch.arange(0, 8, 2).float() / 8)
        assert not torch.allclose(model.model.rotary_emb.inv_freq, plain)
    demonstrations = [
        (encode_prompt(tokenizer, "list three colours"), encode_response(tokenizer, "red, green"))
    ]
    sft = SFT(steps=3, batch_size=2, lr=1e-3, warmup_steps=0, weight_decay=0.0)
    steps = train_sft(model, tokenizer, demonstrations, sft, seed=0, work_dir=tmp_path)
    assert steps["loss"].iloc[-1] < steps["loss"].iloc[0]

    groups = groups_of(tokenizer, model)
    for group in groups:
        for ids, logp in zip(group.response_ids, group.ref_logps, strict=True):
            assert logp == pytest.approx(recomputed(model, group.prompt_ids, ids), abs=2e-4)
    first = -np.log(0.5)  # DPO at the reference
    training = training.model_copy(update={"epochs": 5})
    result = train_policy(
        model, tokenizer, groups, make_objective("dpo"), training, seed=0, work_dir=tmp_path
    )
    assert result.steps["loss"].iloc[0] == pytest.approx(first, abs=1e-5)
    items = [(group.prompt_ids, group.response_ids) for group in groups]
    gaps = [
        (now[0] - group.ref_logps[0]) - (now[1] - group.ref_logps[1])
        for now, group in zip(response_logps(model, tokenizer, items, 256), groups, strict=True)
    ]
    assert np.mean(gaps) > 0.05
    # as evaluation does: the checkpoint from its folder, beside the reference
    checkpoint = result.checkpoints[-1][1]
    policy, again = load_model(checkpoint, device="cpu"), load_tokenizer(str(checkpoint))
    assert stop_token_ids(again) == stop_token_ids(tokenizer)
    reference = load_model(folders[name], device="cpu")
    item = (groups[0].prompt_ids, [groups[0].response_ids[0]])
    (found,) = token_kl(policy, reference, again, [item], 256)[0]
    assert found.logp_policy == pytest.approx(recomputed(policy, item[0], item[1][0]), abs=2e-4)
    assert found.logp_policy == pytest.approx(recomputed(model, item[0], item[1][0]), abs=2e-4)
    assert found.kl > 0


def storages_like(shape):
    """Distinct float tensors of a shape in memory, gradients and moments left out."""
    import gc

    gc.collect()
    found = set()
    for thing in gc.get_objects():
        if isinstance(thing, torch.nn.Parameter) and tuple(thing.shape) == shape:
            found.add(thing.data_ptr())
    return len(found)


@pytest.mark.parametrize("objective", ["rpo_bwd", "tdpo2"])
def test_adapters_share_one_base_model_with_the_reference(folders, objective, training, tmp_path):
    """tdpo2 asks the reference for whole distributions at every step."""
    folder = folders["llama3.1_instruct"]
    tokenizer, model = load_tokenizer(str(folder)), load_model(folder, device="cpu")
    shape = tuple(model.get_input_embeddings().weight.shape)
    groups = groups_of(tokenizer, model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    counts, kept = [], storages_like(shape)
    assert kept == 2  # embedding and head, untied
    lora = Lora(r=4, alpha=8.0, target_modules="all-linear")
    result = train_policy(
        model, tokenizer, groups, make_objective(objective), training, seed=0, work_dir=tmp_path,
        lora=lora, report=lambda done, total, row: counts.append(storages_like(shape)),
    )  # fmt: skip
    assert counts == [kept, kept]
    # the base weights have not moved, so the reference is what it was …
    base = model.get_input_embeddings().weight
    assert torch.equal(base, before["model.embed_tokens.weight"])
    for name, value in model.named_parameters():
        if "lora_" not in name:
            assert torch.equal(value, before[name.replace("base_layer.", "")]), name
    # … and adapters in their own file and merged into weights are the same policy
    checkpoint = result.checkpoints[-1][1]
    merged = load_model(checkpoint, device="cpu")
    adapted = PeftModel.from_pretrained(load_model(folder, device="cpu"), checkpoint / "adapter")
    prompt, ids = groups[0].prompt_ids, groups[0].response_ids[0]
    assert recomputed(adapted, prompt, ids) == pytest.approx(
        recomputed(merged, prompt, ids), abs=1e-4
    )
    with adapted.disable_adapter():
        assert recomputed(adapted, prompt, ids) == pytest.approx(groups[0].ref_logps[0], abs=2e-4)
    assert recomputed(merged, prompt, ids) != pytest.approx(groups[0].ref_logps[0], abs=1e-3)


def test_without_adapters_whole_distributions_take_a_second_model(folders, training, tmp_path):
    """The count above can fail: full fine-tuning does keep a frozen copy for this objective."""
    folder = folders["llama3.1_instruct"]
    tokenizer, model = load_tokenizer(str(folder)), load_model(folder, device="cpu")
    shape = tuple(model.get_input_embeddings().weight.shape)
    groups, counts = groups_of(tokenizer, model), []
    train_policy(
        model, tokenizer, groups, make_objective("tdpo2"), training, seed=0, work_dir=tmp_path,
        report=lambda done, total, row: counts.append(storages_like(shape)),
    )  # fmt: skip
    assert counts == [4, 4]


def test_the_reference_of_token_divergences_is_the_base_with_or_without_copy(
    folders, training, tmp_path
):
    """Adapters start at zero: the first loss of tdpo2 is that of full fine-tuning, KL 0."""
    folder = folders["qwen2.5_instruct"]
    rows = []
    for lora in (None, Lora(r=4, alpha=8.0, target_modules="all-linear")):
        tokenizer, model = load_tokenizer(str(folder)), load_model(folder, device="cpu")
        groups = groups_of(tokenizer, model)
        result = train_policy(
            model, tokenizer, groups, make_objective("tdpo2"), training, seed=0,
            work_dir=tmp_path / str(lora is None), lora=lora,
        )  # fmt: skip
        rows.append(result.steps.iloc[0])
    assert rows[0]["loss"] == pytest.approx(-np.log(0.5), abs=1e-5)
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], abs=1e-6)


def test_sft_of_adapters_ends_in_whole_weights(folders, tmp_path):
    folder = folders["qwen3"]
    tokenizer, model = load_tokenizer(str(folder)), load_model(folder, device="cpu")
    names = [name for name, _ in model.named_parameters()]
    examples = [(encode_prompt(tokenizer, "list"), encode_response(tokenizer, "red, green"))]
    sft = SFT(steps=4, batch_size=2, lr=1e-2, warmup_steps=0, weight_decay=0.0)
    lora = Lora(r=4, alpha=8.0, target_modules="all-linear")
    before = recomputed(model, *examples[0])
    steps = train_sft(model, tokenizer, examples, sft, seed=0, work_dir=tmp_path, lora=lora)
    assert [name for name, _ in model.named_parameters()] == names
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert recomputed(model, *examples[0]) > before
    assert steps["loss"].iloc[-1] < steps["loss"].iloc[0]


def test_micro_batches_and_recomputation_change_no_update(folders, tmp_path):
    folder = folders["gemma_instruct"]
    tokenizer = load_tokenizer(str(folder))
    examples = [
        (encode_prompt(tokenizer, "list"), encode_response(tokenizer, text))
        for text in ("red, green", "a", "the sky is blue", "two and seven make nine")
    ]
    sft = SFT(steps=2, batch_size=4, lr=1e-3, warmup_steps=0, weight_decay=0.0)
    losses = []
    for settings in ({}, {"micro_batch_size": 3, "gradient_checkpointing": True}):
        model = load_model(folder, device="cpu")
        steps = train_sft(model, tokenizer, examples, sft, seed=0, work_dir=tmp_path, **settings)
        losses.append(steps["loss"].tolist())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# -- refusals --------------------------------------------------------------------------------------


def test_pickles_are_refused_with_the_way_out(folders, tmp_path):
    model = load_model(folders["mistral_base"], device="cpu")
    folder = tmp_path / "pickled"
    folder.mkdir()
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin, a pickle.*save_pretrained"):
        load_model(folder, device="cpu")
    assert not any(Path(folder).glob("*.safetensors"))


@pytest.mark.parametrize("level", [n for n in level_names("base_model") if "." in n])
def test_levels_of_hub_models_are_whole(level):
    config = BaseModelConfig(**read_level("base_model", level))
    assert config.name == level
    assert (config.kind, config.dtype, config.trust_remote_code) == ("hf", "auto", False)
    assert config.path.split("/")[0] in ("Qwen", "meta-llama")
    assert (config.lora is not None) == level.endswith("_lora")
    instruct = "Instruct" in config.path or config.path == "Qwen/Qwen3-1.7B"
    assert instruct == ("instruct" in level)
    assert config.preference_batch_size % (config.processes * (config.micro_batch_size or 1)) == 0
