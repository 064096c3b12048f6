"""A source of verdicts behind an HTTP endpoint: a chat model that is asked, or a reward model."""

import threading
from collections.abc import Iterator, Sequence

from ablate.config.judge import HttpJudgeConfig
from ablate.errors import JudgeError
from ablate.evaluation.http_client import Client, in_parallel, read_key
from ablate.evaluation.http_formats import BATCHED, reader, request
from ablate.evaluation.verdicts import Item


class HttpSource:
    """Asks an endpoint, many requests at once.

    Args:
        template: the prompt template (format: chat); the one that the judge's identity holds, not
            what a file says by now.
    """

    def __init__(self, judge: HttpJudgeConfig, template: str) -> None:
        self.judge, self.template = judge, template
        self.truncated = 0  # an endpoint takes all or refuses
        self.name = f"judge={judge.name} ({judge.model} at {judge.url})"
        self.client = Client(
            judge.url,
            read_key(judge.api_key_env),
            timeout=judge.timeout,
            retries=judge.retries,
            backoff=judge.backoff,
        )

    def verdicts(self, items: Sequence[Item]) -> Iterator[tuple[int, float]]:
        """Places and verdicts, as replies come in.

        Raises:
            JudgeError: the endpoint refused, stayed silent or gave twice what is no verdict.
        """
        size = self.judge.batch_size if self.judge.format in BATCHED else 1
        places = range(len(items))
        batches = [places[start : start + size] for start in places[::size]]
        stop = threading.Event()

        def ask(batch: range) -> list[float]:
            body = request(self.judge, self.template, [items[place] for place in batch])
            read = reader(self.judge, len(batch))
            verdicts: list[float] = self.client.post(body, read, stop)
            return verdicts

        try:
            for number, verdicts in in_parallel(batches, ask, self.judge.concurrency, stop):
                yield from zip(batches[number], verdicts, strict=True)
        except JudgeError as error:
            raise JudgeError(f"{self.name}: {error}") from None
