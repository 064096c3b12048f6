"""Requests to an endpoint: JSON there and back, retries with growing waits, many at once.

The key stands in one header and nowhere else: every text that leaves this module is searched for
it, since an endpoint may repeat what it was sent.
"""

import http.client
import json
import os
import queue
import random
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ablate.errors import JudgeError

LONGEST_WAIT = 60.0
#: how much of a strange answer is shown
SHOWN = 200
#: bytes of a reply that are read at most
LARGEST_REPLY = 2**26
#: seconds that requests under way are waited for after another one failed
GRACE = 5.0


class Unreadable(Exception):
    """A reply that is not what the format promises; `str()` says what is wrong with it."""


class _Passing(Exception):
    """A failure that may pass: the endpoint is busy, restarting or out of reach."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected request would take the key to another host, and turn POST into GET."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def read_key(name: str | None) -> str | None:
    """The key in the environment variable `name`.

    Raises:
        JudgeError: the variable is not set, or holds what can be no key. Its content is not told.
    """
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise JudgeError(
            f"judge.api_key_env names the environment variable {name}, which is not set: "
            f"export {name}=… in the shell (or job) that runs ablate"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise JudgeError(f"the environment variable {name} holds characters that no key has")
    return key


class Client:
    """Posts JSON to one url. Safe to use from several threads."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        timeout: float,
        retries: int,
        backoff: float,
    ) -> None:
        self.url = url
        self._key = key
        self.timeout, self.retries, self.backoff = timeout, retries, backoff
        self._opener = urllib.request.build_opener(_NoRedirect)
        # not the global generator: what a stage draws must not depend on an endpoint's health
        self._random = random.Random()

    def post(
        self, payload: dict[str, Any], read: Callable[[Any], Any], stop: threading.Event
    ) -> Any:
        """What `read` makes of the reply; a reply that it refuses is asked for once more.

        Args:
            stop: once it is set, nothing is tried again.

        Raises:
            JudgeError: the endpoint refused, stayed out of reach after all retries, or gave twice
                what `read` cannot take.
        """
        data = json.dumps(payload).encode()
        unread, attempt = 0, 0
        while True:
            attempt += 1
            try:
                return read(self._parse(self._once(data)))
            except Unreadable as error:
                unread += 1
                if unread > 1 or stop.is_set():
                    raise JudgeError(self.scrub(f"{error} (asked twice)")) from None
            except _Passing as error:
                if attempt > self.retries + unread or stop.is_set():
                    tries = f"{attempt} attempts" if attempt > 1 else "one attempt"
                    raise JudgeError(self.scrub(f"{error} (after {tries})")) from None
                stop.wait(self._wait(attempt - unread, error.wait))

    def scrub(self, text: str) -> str:
        """The text without the key, should it hold it."""
        return text if self._key is None else text.replace(self._key, "***")

    def _wait(self, attempt: int, asked: float) -> float:
        """Seconds before the next attempt; spread, so that many do not come back at once."""
        grown = self.backoff * 2.0 ** (attempt - 1) * self._random.uniform(0.5, 1.0)
        return min(max(grown, asked), LONGEST_WAIT)

    def _once(self, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, data, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                body: bytes = response.read(LARGEST_REPLY + 1)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise JudgeError(f"its certificate is not trusted: {error.reason}") from None
            raise _Passing(f"cannot be reached: {error.reason}") from None
        except TimeoutError:
            raise _Passing(f"gave no sign of life for {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Passing(f"broke the connection ({type(error).__name__})") from None
        if len(body) > LARGEST_REPLY:
            raise JudgeError(f"sent more than {LARGEST_REPLY >> 20} MB in one reply")
        return body

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        try:
            body = beginning(error.read(LARGEST_REPLY).decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException):
            body = "(no text)"
        finally:
            error.close()
        what = f"answered HTTP {error.code}: {body}"
        if error.code in (408, 429) or error.code >= 500:
            try:
                wait = float(error.headers.get("Retry-After") or 0)
            except ValueError:
                wait = 0.0  # a date: our own waits will do
            return _Passing(what, wait)
        advice = {
            401: "; is the key right? (judge.api_key_env)",
            403: "; may this key use the model? (judge.api_key_env)",
            404: "; is judge.url the whole address, path included, and judge.model served there?",
        }.get(error.code, "")
        return JudgeError(self.scrub(what + advice))

    def _parse(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except ValueError:
            text = beginning(body.decode("utf-8", "replace"))
            raise Unreadable(f"answered with what is no JSON: {text}") from None


def beginning(text: str) -> str:
    """The first characters of a text, on one line, in quotation marks."""
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else f"{line[:SHOWN]}…")


def in_parallel(
    jobs: Sequence[Any], work: Callable[[Any], Any], workers: int, stop: threading.Event
) -> Iterator[tuple[int, Any]]:
    """Place and result of each job, as they are done, by so many threads.

    When a job fails no other is begun; those under way may still end and are yielded before the
    error is raised.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(len(jobs)):
        waiting.put(place)
    results: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    # daemons: Ctrl-C does not wait for a reply that may never come
    threads = [
        threading.Thread(target=_labour, args=(jobs, work, waiting, results, stop), daemon=True)
        for _ in range(min(workers, len(jobs)))
    ]
    for thread in threads:
        thread.start()
    failure: BaseException | None = None
    try:
        for _ in jobs:
            try:
                place, result, error = results.get(timeout=None if failure is None else GRACE)
            except queue.Empty:
                break
            if place < 0:
                continue
            if error is None:
                yield place, result
            elif failure is None:
                failure = error
        if failure is not None:
            raise failure
    finally:
        stop.set()


def _labour(
    jobs: Sequence[Any],
    work: Callable[[Any], Any],
    waiting: "queue.SimpleQueue[int]",
    results: "queue.SimpleQueue[tuple[int, Any, BaseException | None]]",
    stop: threading.Event,
) -> None:
    while True:
        try:
            place = waiting.get_nowait()
        except queue.Empty:
            return
        if stop.is_set():
            results.put((-1, None, None))  # left undone
            continue
        try:
            results.put((place, work(jobs[place]), None))
        except BaseException as error:
            stop.set()  # here, or this thread would begin another job before anyone noticed
            results.put((place, None, error))
