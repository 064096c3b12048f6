"""Sequence classifiers with one output: loading them and scoring responses."""

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
) -> PreTrainedModel:
    """A sequence classifier with one output, from a folder or the local cache of a hub id.

    Raises:
        ModelError: nothing there, a language model without a classifier, or several outputs.
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
    if model.config.num_labels != 1:
        raise ModelError(
            f"{path} gives {model.config.num_labels} outputs; a reward model gives one score"
        )
    return model.to(resolve_device(device)).eval()


def score_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[list[int], list[int]]],
    batch_size: int,
) -> np.ndarray:
    """float64[N]: the classifier's score of each (prompt ids, response ids), at the last token.

    Batches hold sequences of similar length; padding does not change a score. transformers reads
    a classifier at the last token that is not the *config's* pad, which in foreign models need
    not be the tokenizer's and may be the token that ends a response; so each batch is padded with
    a token that ends none of its rows, and the config is told of it for the time being.

    Raises:
        ModelError: a sequence longer than the model's context.
    """
    rows = [[*prompt, *response] for prompt, response in pairs]
    check_lengths((len(row) for row in rows), context_length(model))
    order = sorted(range(len(rows)), key=lambda place: (len(rows[place]), place))
    scores = np.empty(len(rows), dtype=np.float64)
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
                scores[places] = output.logits[:, 0].float().cpu().numpy()
    finally:
        for config, old in zip(configs, pads, strict=True):
            config.pad_token_id = old
        model.train(was_training)
    return scores
