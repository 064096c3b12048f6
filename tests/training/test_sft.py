"""Supervised fine-tuning: the loss by hand, learning, reproducibility."""

import pytest
import torch

from ablate.config.model import SFT
from ablate.errors import DataError, ModelError
from ablate.models.loading import weights_digest
from ablate.training.groups import presentation_order
from ablate.training.sft import train_sft

#: prompt "x", response "x x": ragged lengths, fully learnable
EXAMPLES = [([1, *[token] * (1 + token % 3), 3], [token, token, 2]) for token in range(5, 13)]


def _sft(**changes):
    values = {"steps": 30, "batch_size": 8, "lr": 1e-2, "warmup_steps": 0, "weight_decay": 0.0}
    return SFT(**{**values, **changes})


def test_first_loss_is_the_mean_over_response_tokens(
    make_model, tokenizer, plain_logps, tmp_path, capfd
):
    order = presentation_order(len(EXAMPLES), 3, seed=5)
    with torch.no_grad():
        drawn = [plain_logps(make_model(), *EXAMPLES[place]) for place in order]
    table = train_sft(
        make_model(), tokenizer, EXAMPLES, _sft(steps=1, batch_size=3), seed=5, work_dir=tmp_path
    )
    assert table["loss"].iloc[0] == pytest.approx(-torch.cat(drawn).mean().item(), rel=1e-4)
    assert list(tmp_path.iterdir()) == []
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_it_learns_and_repeats_bit_for_bit(make_model, tokenizer, tmp_path):
    digests = []
    for seed in (0, 0, 1):
        model = make_model()
        torch.rand(seed + 3)
        seen = []
        table = train_sft(
            model, tokenizer, EXAMPLES, _sft(), seed=seed, work_dir=tmp_path,
            report=lambda done, total, row, seen=seen: seen.append((done, total)),
        )  # fmt: skip
        assert seen == [(step, 30) for step in range(1, 31)]
        assert table["loss"].iloc[-1] < 0.4 * table["loss"].iloc[0]
        assert table["token_accuracy"].iloc[-1] > table["token_accuracy"].iloc[0]
        digests.append(weights_digest(model))
        assert not model.training
        assert "forward" not in model.__dict__
    assert digests[0] == digests[1] != digests[2]


def test_no_steps_leave_the_model_alone(make_model, tokenizer, tmp_path):
    model = make_model()
    assert train_sft(model, tokenizer, [], _sft(steps=0), seed=0, work_dir=tmp_path).empty
    assert weights_digest(model) == weights_digest(make_model())


def test_bfloat16_comes_back_as_bfloat16(make_model, tokenizer, tmp_path):
    model = make_model(dtype=torch.bfloat16)
    table = train_sft(model, tokenizer, EXAMPLES, _sft(), seed=0, work_dir=tmp_path)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert table["loss"].iloc[-1] < table["loss"].iloc[0]
    logits = model(torch.tensor([[1, 5, 3]])).logits
    assert logits.dtype == torch.bfloat16  # the autocast wrapper is gone


def test_warm_up_and_mistakes(make_model, tokenizer, tmp_path):
    table = train_sft(
        make_model(), tokenizer, EXAMPLES, _sft(steps=4, warmup_steps=2), seed=0, work_dir=tmp_path
    )
    assert table["lr"].tolist() == pytest.approx([0.0, 5e-3, 1e-2, 1e-2])
    with pytest.raises(DataError, match="no demonstrations"):
        train_sft(make_model(), tokenizer, [], _sft(), seed=0, work_dir=tmp_path)
    with pytest.raises(ModelError, match="context of 32"):
        train_sft(
            make_model(), tokenizer, [([1] * 30, [5, 5, 2])], _sft(), seed=0, work_dir=tmp_path
        )
