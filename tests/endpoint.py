"""A small HTTP endpoint of our own: every format, and every way an endpoint can go wrong.

In a thread (`Endpoint`), or as a process that can be killed: `python endpoint.py` prints its port.
"""

import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def quality(text: str) -> float:
    """What this endpoint thinks of a response: something that any text has, from 1 to 10."""
    return 1 + sum(map(ord, text)) % 901 / 100


class Endpoint:
    """Serves until closed; tests set its attributes to make it misbehave.

    asked: the responses (or pairs) it was asked about, in order; one entry per answer.
    headers: of every request, refused ones included.
    """

    def __init__(self, port: int = 0) -> None:
        self.asked: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        #: status of the next replies; 0 hangs up, 200 is a real reply
        self.script: list[int] = []
        #: bodies of the next real replies
        self.raw: list[bytes] = []
        self.retry_after: str | None = None
        self.key: str | None = None
        self.delay = 0.0
        self.die_after: int | None = None
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                endpoint.answer(self)

            def log_message(self, *words: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.thread.start()

    def url(self, path: str = "/v1/chat/completions") -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.headers.append(dict(handler.headers))
            self.bodies.append(body)
            self.busy += 1
            self.busiest = max(self.busy, self.busiest)
            status = self.script.pop(0) if self.script else 200
        time.sleep(self.delay)
        with self.lock:
            # before the reply: its reader may be here again before this handler has ended
            self.busy -= 1
        try:
            if self.key is not None and handler.headers["Authorization"] != f"Bearer {self.key}":
                # like some endpoints, it repeats what it was sent
                sent = str(handler.headers["Authorization"])
                self.reply(handler, 401, f"no such key: {sent}".encode())
            elif status == 0:
                handler.close_connection = True
            elif status != 200:
                sent = str(handler.headers["Authorization"])
                self.reply(handler, status, f"not now, {sent}".encode())
            else:
                with self.lock:
                    raw = self.raw.pop(0) if self.raw else None
                self.reply(handler, 200, raw or json.dumps(self.judge(handler.path, body)).encode())
        except OSError:
            pass  # the client gave up
        if self.die_after is not None and len(self.asked) >= self.die_after:
            import os

            os._exit(9)

    def reply(self, handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        handler.send_response(status)
        if self.retry_after is not None and status != 200:
            handler.send_header("Retry-After", self.retry_after)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def judge(self, path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/classify"):
            score = self.mark(body["messages"][-1]["content"])
            found = {"index": 0, "label": "LABEL_0", "probs": [score], "num_classes": 1}
            return {"id": "classify-1", "object": "list", "model": body["model"], "data": [found]}
        if path.endswith("/pooling"):
            score = self.mark(body["messages"][-1]["content"])
            found = {"index": 0, "object": "pooling", "data": [[score]]}
            return {"id": "pool-1", "object": "list", "model": body["model"], "data": [found]}
        if path.endswith("/predict"):
            return [[{"score": self.mark(r), "label": "LABEL_0"}] for _, r in body["inputs"]]
        if path.endswith("/rewards"):
            return {"scores": [self.mark(item["response"]) for item in body["inputs"]]}
        (message,) = body["messages"]
        return {"choices": [{"message": {"role": "assistant", "content": self.say(message)}}]}

    def mark(self, response: str) -> float:
        with self.lock:
            self.asked.append(response)
        return quality(response)

    def say(self, message: dict[str, str]) -> str:
        text = message["content"]
        pair = re.search(r"\[Answer A\]\n(.*)\n\n\[Answer B\]\n(.*)\n\nJudge", text, re.DOTALL)
        if pair is None:
            response = text.split("[Answered]\n")[1].split("\n\nJudge how")[0]
            return f"Scores from 1 to 10 are usual.\nScore: {self.mark(response):.2f}"
        first, second = pair.groups()
        with self.lock:
            self.asked.append((first, second))
        # it likes whatever comes first a little better
        gap = quality(first) + 0.5 - quality(second)
        return f"Well. Verdict: {'A' if gap > 0 else 'B' if gap < 0 else 'tie'}"


if __name__ == "__main__":
    served = Endpoint()
    served.die_after = int(sys.argv[1]) if len(sys.argv) > 1 else None
    served.delay = 0.01
    print(served.server.server_port, flush=True)
    served.thread.join()
