"""A sequence classifier of yours, with its own tokenizer and chat template, as judge or reward."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ablate.config.judge import Classifier
from ablate.datasets.chat import as_messages
from ablate.errors import ModelError
from ablate.rewards.table import Answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: a tokenizer that knows no limit says 10**30
NO_LIMIT = 10**9


class ClassifierSource:
    """Scores conversations with their answers; loaded when the first is to be scored.

    Args:
        folder: what `config.path` was identified as (a folder; of a hub id, a commit's snapshot).
        name: what a person calls it, in messages.
    """

    def __init__(self, config: Classifier, folder: Path, device: str, name: str) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.name = f"{name} ({config.path})"
        self.truncated = 0
        self._loaded: tuple[Any, PreTrainedTokenizerBase] | None = None

    def verdicts(self, items: Sequence[dict[str, Any]]) -> Iterator[tuple[int, float]]:
        """Places and scores, batch by batch: `items` hold `turns` and `response`.

        Raises:
            ModelError: no such model, one whose tokenizer does not fit, or an answer too long for
                it (unless `too_long` is `truncate`).
        """
        from ablate.models.conversation import encode_conversation, encoding_of
        from ablate.models.scoring import batch_outputs

        model, tokenizer = self._load()
        limit = self.limit(model.config, tokenizer)
        encoding = encoding_of(tokenizer, self.config.encoding)
        room = limit if self.config.too_long == "truncate" else None
        encoded = [
            encode_conversation(tokenizer, item["turns"], item["response"], encoding, room)
            for item in items
        ]
        self.truncated += sum(cut > 0 for _, _, cut in encoded)
        rows = [ids for ids, _, _ in encoded]
        if limit is not None:
            self._refuse_long([len(row) for row in rows], limit)
        for places in batches([len(row) for row in rows], self.config.batch_tokens):
            segments = [encoded[place][1] for place in places]
            known = [types for types in segments if types is not None]
            outputs = batch_outputs(
                model,
                len(tokenizer),
                [rows[place] for place in places],
                known if len(known) == len(places) else None,
            )
            yield from zip(places, outputs[:, self.config.output or 0].tolist(), strict=True)

    def limit(self, model_config: Any, tokenizer: "PreTrainedTokenizerBase") -> int | None:
        """The longest sequence in tokens: the least of what the three say."""
        own = getattr(model_config.get_text_config(), "max_position_embeddings", None)
        said = [own, tokenizer.model_max_length, self.config.max_length]
        return min((limit for limit in said if limit and limit < NO_LIMIT), default=None)

    def check(self) -> None:
        """Refuses, without loading weights, what could not work.

        Raises:
            ModelError: no tokenizer, one that does not fit the model, or not one output.
        """
        from transformers import AutoConfig

        from ablate.models.conversation import encoding_of
        from ablate.models.missing import offline_help
        from ablate.models.scoring import check_outputs, check_vocabulary

        try:
            config = AutoConfig.from_pretrained(
                self.folder, trust_remote_code=self.config.trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise ModelError(
                offline_help(self.config.path, "reward model", error, "judge.path")
            ) from error
        tokenizer = self._tokenizer()
        rows = getattr(config.get_text_config(), "vocab_size", None)
        if rows is not None:
            check_vocabulary(self.config.path, tokenizer, rows)
        encoding_of(tokenizer, self.config.encoding)
        check_outputs(self.config.path, config.num_labels, self.config.output)

    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        from ablate.models.tokenizer import load_tokenizer

        code = self.config.trust_remote_code
        return load_tokenizer(str(self.folder), None, code, must_end=False)

    def _load(self) -> tuple[Any, "PreTrainedTokenizerBase"]:
        if self._loaded is None:
            from ablate.models.scoring import check_vocabulary, load_reward_model

            config = self.config
            tokenizer = self._tokenizer()
            model = load_reward_model(
                self.folder,
                config.dtype,
                None,
                config.trust_remote_code,
                self.device,
                config.output,
            )
            rows = model.get_input_embeddings().weight.shape[0]
            check_vocabulary(config.path, tokenizer, rows)
            self._loaded = model, tokenizer
        return self._loaded

    def _refuse_long(self, lengths: list[int], limit: int) -> None:
        longest = max(lengths, default=0)
        if longest > limit:
            raise ModelError(
                f"{self.name} reads {limit} tokens, but {sum(n > limit for n in lengths)} of "
                f"{len(lengths)} conversations have more, the longest {longest}. Use "
                "too_long=truncate (the oldest tokens of the prompt are left out) or a model that "
                "reads more"
            )


class ClassifierScorer:
    """A classifier as training reward: `score(answers)` as every scorer has it."""

    def __init__(self, source: ClassifierSource) -> None:
        self.source = source

    def score(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """float[R], one score per answer."""
        scores = np.full(len(answers), np.nan)
        items = [{"turns": turns_of(a), "response": a.response} for a in answers]
        for place, score in self.source.verdicts(items):
            scores[place] = score
        return scores


def turns_of(answer: Answer) -> list[dict[str, str]]:
    """The conversation that an answer continues."""
    return list(as_messages(answer.conversation))


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Places of sequences of similar length, so many that padded they hold `tokens` at most.

    A sequence longer than that is a batch by itself.
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        if batch and lengths[place] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
