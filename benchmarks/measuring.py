"""What the training benchmarks share: ways interleaved, ratios with their spread, the machine."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ablate.models.memory import Shape
from ablate.training.groups import Group

RESULTS = Path(__file__).resolve().parent / "results"
VOCABULARY = 4096


def build(width: int, layers: int, seed: int = 0, vocabulary: int = VOCABULARY) -> Any:
    """A LLaMA-shaped model with random weights, heads of 64 and an MLP of 8/3 widths."""
    torch.manual_seed(seed)
    heads = max(2, width // 64)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=width * 8 // 3 // 16 * 16,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        initializer_range=width**-0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def shape_of(model: Any) -> Shape:
    """The shape that counted operations need."""
    return Shape.of(model.config.to_dict())


def make_groups(
    count: int, k: int, prompt: int, response: int, *, ragged: bool = False, seed: int = 0
) -> list[Group]:
    """Groups of random tokens; `ragged`: lengths uniform between half and one and a half."""
    draw = np.random.default_rng(seed)

    def text(mean: int) -> list[int]:
        low, high = max(1, mean // 2), mean + mean // 2
        length = int(draw.integers(low, high + 1)) if ragged else mean
        return [int(token) for token in draw.integers(5, VOCABULARY, length)]

    return [
        Group(
            prompt_id=f"p{number}",
            prompt_ids=text(prompt),
            response_ids=[text(response) for _ in range(k)],
            ref_logps=(-8.0 * response + draw.normal(size=k)).tolist(),
            rewards=draw.normal(size=k).tolist(),
            pool_index=list(range(k)),
        )
        for number in range(count)
    ]


def interleaved(
    ways: dict[str, Callable[[], float]], rounds: int, settle: int = 1
) -> dict[str, list[float]]:
    """Seconds of each way in each round, the ways one after the other within a round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(settle + rounds):
        for name, way in ways.items():
            seconds = way()
            if number >= settle:
                times[name].append(seconds)
    return times


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": round(statistics.median(values), 4),
        "lowest": round(min(values), 4),
        "highest": round(max(values), 4),
    }


def ratios(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times faster the second way is: the ratio of each round."""
    return spread([left / right for left, right in zip(slow, fast, strict=True)])


def timed(work: Callable[[], Any]) -> float:
    """Seconds that the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matrix_rate(size: int = 1536, repeats: int = 5) -> float:
    """Operations per second of one large float32 product, the best of several."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    torch.mm(left, right, out=out)
    best = min(timed(lambda: torch.mm(left, right, out=out)) for _ in range(repeats))
    return 2 * size**3 / best


def told(figure: dict[str, float], digits: int = 2) -> str:
    """`median (lowest to highest)`."""
    return (
        f"{figure['median']:.{digits}f} ({figure['lowest']:.{digits}f} to "
        f"{figure['highest']:.{digits}f})"
    )


def machine() -> dict[str, Any]:
    """Where the figures come from, and how busy it was."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": [round(value, 2) for value in os.getloadavg()],
        "system": platform.system(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Of what was timed."""
    import transformers
    import trl

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
    }


def write(name: str, what: str, where: dict[str, Any], figures: dict[str, Any]) -> None:
    """benchmarks/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    result = {
        "what": what,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": where,
        "versions": versions(),
        **figures,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def cpu_model() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
