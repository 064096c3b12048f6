"""vLLM's pure parts: what it is asked, how its answers are read. vLLM itself cannot run here.

The server is a small one of our own behind TRL's real client; it draws with a generator seeded by
the request, n responses with the seeds from `seed` on, as vLLM does.
"""

import json
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from tinymodel import EOS, PLAIN, PROMPTS, TOKENIZER, tiny
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration

from ablate.config.levels import read_level
from ablate.config.sampler import VLLMSampler
from ablate.errors import ModelError
from ablate.sampling import vllm
from ablate.sampling.noise import prompt_seed
from ablate.sampling.sampler import open_sampler

LEVEL = VLLMSampler(**read_level("sampler", "vllm"))
STOPS = [EOS]


def tokens(seed, limit):
    """A response that depends on its seed alone."""
    draws = np.random.default_rng(seed).integers(EOS, 8, size=limit).tolist()
    return draws[: draws.index(EOS) + 1] if EOS in draws else draws


@dataclass
class Params:
    """The fields of vLLM's SamplingParams that are used."""

    n: int
    seed: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    max_tokens: int
    stop_token_ids: list[int]
    detokenize: bool


@dataclass
class Output:
    token_ids: list[int]


@dataclass
class RequestOutput:
    outputs: list[Output]


@dataclass
class Engine:
    """`LLM.generate` as documented: a list of prompts, a list of parameters, answers in order."""

    calls: list[int] = field(default_factory=list)

    def generate(self, prompts, sampling_params, use_tqdm):
        assert not use_tqdm
        self.calls.append(len(prompts))
        return [
            RequestOutput([Output(tokens(params.seed, params.max_tokens))])
            for _, params in zip(prompts, sampling_params, strict=True)
        ]


def from_engine(n, first=0, engine=None, prompts=PROMPTS):
    batches = vllm._from_engine(
        engine or Engine(), Params, prompts, range(first, first + n), PLAIN, 7, STOPS
    )
    return {(r.prompt_id, r.index): r for batch in batches for r in batch}


class Server:
    """A completions server; `alive` requests are answered, at later ones its process is gone."""

    def __init__(self, alive=None):
        self.seen = []
        seen = self.seen

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append((self.path, body))
                if alive is not None and len(seen) > alive:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status = {0.125: 500, 0.25: 400}.get(body["temperature"], 200)
                choices = [
                    {
                        "prompt_token_ids": body["prompt"][0],
                        "token_ids": tokens(body["seed"] + i, body["max_tokens"]),
                        "logprobs": None,
                    }
                    for i in range(body["n"])
                ]
                text = json.dumps({"choices": choices}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args):
                pass

        self._listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._listening.serve_forever)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._listening.server_port}"

    def close(self):
        self._listening.shutdown()
        self._thread.join()
        self._listening.server_close()


@pytest.fixture
def server():
    """Address of a completions server, and the requests that it was sent."""
    running = Server()
    yield running.address, running.seen
    running.close()


def client_of(address):
    """TRL's client without its check of a vLLM on this machine."""
    client = VLLMClient.__new__(VLLMClient)
    client.session, client.base_url, client.model = requests.Session(), address, "some-model"
    return client


def from_server(address, n, first=0, sampling=PLAIN):
    batches = vllm._from_server(
        client_of(address).generate, PROMPTS, range(first, first + n), sampling, 7, STOPS
    )
    return {(r.prompt_id, r.index): r for batch in batches for r in batch}


def test_every_response_has_a_seed_of_its_own_and_a_larger_pool_extends_a_smaller():
    whole = from_engine(6)
    assert len(whole) == 24
    assert whole["p2", 3].ids == tokens(prompt_seed(7, "p2") + 3, 5)
    assert len({tuple(response.ids) for response in whole.values()}) > 12
    assert from_engine(2) | from_engine(4, first=2) == whole
    assert from_engine(6, prompts=PROMPTS[::-1]) == whole


def test_long_draws_are_told_in_parts(monkeypatch):
    monkeypatch.setattr(vllm, "CHUNK", 10)
    engine = Engine()
    assert from_engine(6, engine=engine) == from_engine(6)
    assert engine.calls == [10, 10, 4]


def test_a_server_gives_the_responses_of_the_engine(server):
    address, _ = server
    assert from_server(address, 6) == from_engine(6)
    assert from_server(address, 4, first=2) == from_engine(4, first=2)


def test_a_request_holds_all_that_decides_a_draw(server):
    address, seen = server
    sampling = PLAIN.model_copy(update={"temperature": 0.7, "top_p": 0.9, "top_k": 20})
    from_server(address, 3, sampling=sampling)
    assert {path for path, _ in seen} == {"/v1/completions"}
    body = next(body for _, body in seen if body["prompt"] == [PROMPTS[1][1]])
    assert body["seed"] == prompt_seed(7, "p1")
    wanted = {"n": 3, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.0,
              "max_tokens": 5, "repetition_penalty": 1.0, "stop_token_ids": STOPS,
              "model": "some-model"}  # fmt: skip
    assert {key: body[key] for key in wanted} == wanted


@pytest.fixture
def restarting(monkeypatch):
    """Makes a backend whose server is another process at every setup, and lists the setups.

    Setting up (NCCL, weights) needs vLLM; what is drawn goes through TRL's real client.
    """
    monkeypatch.setattr(vllm, "check_installed", lambda: None)
    opened = []

    def make(lives, **settings):
        config = LEVEL.model_copy(update={"mode": "server", "server_url": "http://x:1", **settings})
        backend = vllm.VLLMBackend(tiny(), TOKENIZER, config)
        lives = iter(lives)

        def ready():
            if backend._generation is None:
                opened.append(Server(next(lives)))
                backend._generation = SimpleNamespace(vllm_client=client_of(opened[-1].address))
            return backend._generation

        monkeypatch.setattr(backend, "_ready", ready)
        return backend, opened

    yield make
    for running in opened:
        running.close()


def drawn(backend, sampling=PLAIN):
    whole = backend.draw(PROMPTS, range(6), sampling, 7, None)
    return {(r.prompt_id, r.index): r for r in whole}


def test_a_draw_whose_server_dies_in_the_middle_is_drawn_anew(restarting):
    backend, opened = restarting([2, 1, None], server_retries=2)
    assert drawn(backend) == from_engine(6)
    assert [len(running.seen) for running in opened][2] == len(PROMPTS)
    assert len(opened) == 3
    assert drawn(backend) == from_engine(6)
    assert len(opened) == 3


def test_a_server_that_keeps_dying_fails_the_draw_whole(restarting):
    backend, opened = restarting([2, 1, 0, None], server_retries=2)
    with pytest.raises(ModelError, match="in the middle of a draw, 3 of 3 times") as told:
        drawn(backend)
    assert "http://x:1" in str(told.value)
    assert len(opened) == 3


def test_errors_of_the_server_are_tried_again_and_mistakes_of_ours_are_not(restarting):
    backend, opened = restarting([None, None], server_retries=1)
    with pytest.raises(ModelError, match=r"2 of 2 times: Request failed: 500"):
        drawn(backend, PLAIN.model_copy(update={"temperature": 0.125}))
    assert len(opened) == 2
    backend, opened = restarting([None], server_retries=5)
    before = len(opened)
    with pytest.raises(ModelError, match="refused a draw: Request failed: 400"):
        drawn(backend, PLAIN.model_copy(update={"temperature": 0.25}))
    assert len(opened) == before + 1


def test_endings_are_read_as_they_are():
    assert vllm.parse("p", 0, [5, EOS], STOPS, 5).finished
    assert not vllm.parse("p", 0, [5] * 5, STOPS, 5).finished
    assert vllm.parse("p", 0, [EOS], STOPS, 5).ids == [EOS]
    with pytest.raises(ModelError, match=r"'p' after 2 of 5 tokens .*the last one is 6"):
        vllm.parse("p", 0, [5, 6], STOPS, 5)
    with pytest.raises(ModelError, match="no token"):
        vllm.parse("p", 0, [], STOPS, 5)


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_trl_knows_every_argument(mode):
    import inspect

    config = LEVEL.model_copy(update={"mode": mode, "server_url": "http://x:1"})
    known = inspect.signature(VLLMGeneration.__init__).parameters
    arguments = vllm.generation_arguments(config, 512)
    assert arguments["mode"] == mode
    assert set(arguments) <= set(known)
    named = inspect.signature(VLLMClient.generate).parameters
    assert {"prompts", "n", "logprobs", "generation_kwargs", "temperature", "top_p", "top_k",
            "min_p", "repetition_penalty", "max_tokens"} <= set(named)  # fmt: skip


def test_the_rendezvous_of_the_engine_is_taken_back(monkeypatch):
    import os

    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with vllm._same_environment():
        os.environ["RANK"], os.environ["WORLD_SIZE"] = "0", "1"
    assert os.environ["RANK"] == "3"
    assert "WORLD_SIZE" not in os.environ


@pytest.mark.skipif(vllm.importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_missing_vllm_is_told_before_any_work(ablate, tmp_path):
    with pytest.raises(ModelError, match=r"pip install 'ablate\[vllm\]'"):
        open_sampler(LEVEL, tiny(), TOKENIZER)
    done = ablate("sampler=vllm", f"results_dir={tmp_path / 'store'}")
    assert done.returncode == 2
    assert "pip install 'ablate[vllm]'" in done.stderr
    assert not (tmp_path / "store" / "stages").exists()
