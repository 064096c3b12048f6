"""Sequence classifiers: loading them, scoring and embedding responses."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ablate.errors import ModelError
from ablate.models.loading import (
    check_lengths,
    context_length,
    resolve_device,
    resolve_dtype,
)
from ablate.models.missing import check_safetensors, offline_help
from ablate.trl_compat.quiet import quiet


def load_reward_model(
    path_or_id: str | Path,
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str = "auto",
    output: int | None = None,
    outputs: int = 1,
) -> PreTrainedModel:
    """A sequence classifier, from a folder or the local cache of a hub id; safetensors only.

    Args:
        output: which output will be read as the score, from 0, of a classifier of any number.
        outputs: how many it must have where `output` is not given.

    Raises:
        ModelError: nothing there, a language model without a classifier, or other outputs.
    """
    path = str(path_or_id)
    if not os.path.isdir(path) and path.startswith(("/", ".", "~")):
        raise ModelError(f"the reward model folder {path} does not exist")
    if os.path.isdir(path):
        check_safetensors(path)
    place = resolve_device(device)
    options: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "use_safetensors": True,
    }
    try:
        with quiet():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                path,
                dtype=resolve_dtype(dtype, place),
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError) as error:
        raise ModelError(offline_help(path, "reward model", error)) from error
    if report["missing_keys"]:
        raise ModelError(
            f"{path} has no trained score head ({', '.join(sorted(report['missing_keys']))} "
            "missing): it is a language model, not a reward model"
        )
    check_outputs(path, int(model.config.num_labels), output, outputs)
    return model.to(place).eval()


def check_outputs(path: str, found: int, output: int | None, outputs: int = 1) -> None:
    """Refuses a classifier that has not so many outputs, or not the one that is asked for.

    Raises:
        ModelError: names how many there are.
    """
    if output is None and found != outputs:
        raise ModelError(
            f"{path} gives {found} outputs; a reward model gives one score. Say which one it is, "
            "counted from 0, by judge.output or reward.output"
        )
    if output is not None and output >= found:
        raise ModelError(f"{path} has no output {output}: it gives {found} outputs, from 0 on")


def check_vocabulary(path: str, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Refuses a tokenizer with ids that the model has no embedding for.

    Args:
        rows: of the embedding matrix.

    Raises:
        ModelError: names the highest id and the number of rows.
    """
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise ModelError(
            f"the tokenizer of {path} does not fit its model: it gives ids up to {highest}, but "
            f"the model has embeddings for {rows}. Save the tokenizer that the model was trained "
            "with into its folder"
        )


def score_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[list[int], list[int]]],
    batch_size: int,
    output: int = 0,
) -> np.ndarray:
    """float64[N]: one output of the classifier for each (prompt ids, response ids).

    Raises:
        ModelError: see `classifier_outputs`.
    """
    return np.ascontiguousarray(classifier_outputs(model, tokenizer, pairs, batch_size)[:, output])


def classifier_outputs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[list[int], list[int]]],
    batch_size: int,
) -> np.ndarray:
    """float64[N, outputs]: what the classifier says at the last token of each pair.

    Batches hold sequences of similar length; padding does not change a score.

    Raises:
        ModelError: a sequence longer than the model's context, or a token beyond its vocabulary.
    """
    rows = [[*prompt, *response] for prompt, response in pairs]
    check_lengths((len(row) for row in rows), context_length(model))
    _check_ids(model, rows)
    order = sorted(range(len(rows)), key=lambda place: (len(rows[place]), place))
    found = np.empty((len(rows), int(model.config.num_labels)), dtype=np.float64)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        found[places] = batch_outputs(model, len(tokenizer), [rows[place] for place in places])
    return found


def batch_outputs(
    model: PreTrainedModel,
    vocabulary: int,
    rows: Sequence[list[int]],
    segments: Sequence[list[int]] | None = None,
) -> np.ndarray:
    """float64[B, outputs]: what the classifier says of each sequence, in one forward pass.

    transformers reads a classifier at the last token that is not the *config's* pad, which in
    foreign models need not be the tokenizer's and may be the token that ends a response; so the
    batch is padded with a token that ends none of its rows, and the config is told of it for the
    time being.

    Args:
        vocabulary: number of tokens; any of them may pad.
        segments: segment ids of each row, for encoders that know them.

    Raises:
        ModelError: the rows end with every token there is.
    """
    ends = {row[-1] for row in rows}
    pad = next((token for token in range(vocabulary) if token not in ends), None)
    if pad is None:
        raise ModelError("the answers of a batch end with every token there is")
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    types = torch.zeros((len(rows), width), dtype=torch.long)
    for line, row in enumerate(rows):
        ids[line, : len(row)] = torch.tensor(row)
        mask[line, : len(row)] = 1
        if segments is not None:
            types[line, : len(row)] = torch.tensor(segments[line])
    inputs = {"input_ids": ids, "attention_mask": mask}
    if segments is not None:
        inputs["token_type_ids"] = types
    # encoders keep no cache of keys and values, and need not know the word
    options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    was_training, configs = model.training, (model.config, model.config.get_text_config())
    pads = [config.pad_token_id for config in configs]
    model.eval()
    try:
        for config in configs:
            config.pad_token_id = pad
        with torch.no_grad():
            out: Any = model(**{k: v.to(model.device) for k, v in inputs.items()}, **options)
        return out.logits.float().cpu().numpy().astype(np.float64)
    finally:
        for config, old in zip(configs, pads, strict=True):
            config.pad_token_id = old
        model.train(was_training)


def _check_ids(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> None:
    size = model.get_input_embeddings().weight.shape[0]
    largest = max((max(row) for row in rows if row), default=0)
    if largest >= size:
        raise ModelError(
            f"the tokenizer of {model.config.name_or_path or 'the classifier'} gives the token "
            f"{largest}, but the model knows tokens 0 to {size - 1}: they do not belong together. "
            "Save the model's own tokenizer in its folder"
        )
