"""vLLM's pure parts: what it is asked, how its answers are read. vLLM itself cannot run here.

The server is a small one of our own behind TRL's real client; it draws with a generator seeded by
the request, n responses with the seeds from `seed` on, as vLLM does.
"""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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


@pytest.fixture
def server():
    """Address of a completions server, and the requests that it was sent."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body))
            failing = body["temperature"] == 0.125
            choices = [
                {
                    "prompt_token_ids": body["prompt"][0],
                    "token_ids": tokens(body["seed"] + i, body["max_tokens"]),
                    "logprobs": None,
                }
                for i in range(body["n"])
            ]
            text = json.dumps({"choices": choices}).encode()
            self.send_response(500 if failing else 200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}", seen
    listening.shutdown()
    thread.join()
    listening.server_close()


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


def test_a_server_that_fails_in_the_middle_fails_the_draw(server):
    address, _ = server
    broken = PLAIN.model_copy(update={"temperature": 0.125})
    with pytest.raises(Exception, match="Request failed: 500"):
        from_server(address, 2, sampling=broken)


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
