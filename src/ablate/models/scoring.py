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
from ablate.models.loading import check_lengths, context_length, resolve_device
from ablate.models.missing import offline_help
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
    """A sequence classifier, from a folder or the local cache of a hub id.

    Args:
        output: which output will be read as the score, from 0, of a classifier of any number.
        outputs: how many it must have where `output` is not given.

    Raises:
        ModelError: nothing there, a language model without a classifier, or other outputs.
    """
    path = str(path_or_id)
    if not os.path.isdir(path) and path.startswith(("/", ".", "~")):
        raise ModelError(f"the reward model folder {path} does not exist")
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        with quiet():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=getattr(torch, dtype), output_loading_info=True, **options
            )
    except (OSError, ValueError) as error:
        raise ModelError(offline_help(path, "reward model", error)) from error
    if report["missing_keys"]:
        raise ModelError(
            f"{path} has no trained score head ({', '.join(sorted(report['missing_keys']))} "
            "missing): it is a language model, not a reward model"
        )
    found = int(model.config.num_labels)
    if output is None and found != outputs:
        raise ModelError(
            f"{path} gives {found} outputs; a reward model gives one score. Say which one it is "
            "by reward.output, counted from 0"
        )
    if output is not None and output >= found:
        raise ModelError(f"{path} has no output {output}: it gives {found}, counted from 0")
    return model.to(resolve_device(device)).eval()


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

    Batches hold sequences of similar length; padding does not change a score. transformers reads
    a classifier at the last token that is not the *config's* pad, which in foreign models need
    not be the tokenizer's and may be the token that ends a response; so each batch is padded with
    a token that ends none of its rows, and the config is told of it for the time being.

    Raises:
        ModelError: a sequence longer than the model's context, or a token beyond its vocabulary.
    """
    rows = [[*prompt, *response] for prompt, response in pairs]
    check_lengths((len(row) for row in rows), context_length(model))
    _check_vocabulary(model, rows)
    order = sorted(range(len(rows)), key=lambda place: (len(rows[place]), place))
    found = np.empty((len(rows), int(model.config.num_labels)), dtype=np.float64)
    was_training, configs = model.training, (model.config, model.config.get_text_config())
    pads = [config.pad_token_id for config in configs]
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                places = order[start : start + batch_size]
                ends = {rows[place][-1] for place in places}
                pad = next((token for token in range(len(tokenizer)) if token not in ends), None)
                if pad is None:
                    raise ModelError("the answers of a batch end with every token there is")
                for config in configs:
                    config.pad_token_id = pad
                width = max(len(rows[place]) for place in places)
                ids = torch.full((len(places), width), pad)
                mask = torch.zeros((len(places), width), dtype=torch.long)
                for line, place in enumerate(places):
                    ids[line, : len(rows[place])] = torch.tensor(rows[place])
                    mask[line, : len(rows[place])] = 1
                output: Any = model(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    use_cache=False,
                )
                found[places] = output.logits.float().cpu().numpy()
    finally:
        for config, old in zip(configs, pads, strict=True):
            config.pad_token_id = old
        model.train(was_training)
    return found


def _check_vocabulary(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> None:
    size = model.get_input_embeddings().weight.shape[0]
    largest = max((max(row) for row in rows if row), default=0)
    if largest >= size:
        raise ModelError(
            f"the tokenizer of {model.config.name_or_path or 'the classifier'} gives the token "
            f"{largest}, but the model knows tokens 0 to {size - 1}: they do not belong together. "
            "Save the model's own tokenizer in its folder"
        )
