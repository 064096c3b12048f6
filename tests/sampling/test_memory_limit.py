"""Sampling in a process whose memory is limited: fewer responses at a time, the same responses."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, resource, sys
import torch
from tinymodel import PLAIN, PROMPTS, TOKENIZER, tiny
from ablate.errors import ModelError
from ablate.sampling.sample import lowered_batch, sample_responses

torch.set_num_threads(1)
# a large vocabulary makes logits, not weights, the larger part
model = tiny(vocab_size=int(sys.argv[2]), hidden_size=4)

def draw(count, size):
    found = sample_responses(
        model, TOKENIZER, PROMPTS, count, sampling=PLAIN, seed=0, batch_size=size
    )
    return [(r.prompt_id, r.index, r.ids) for r in found]

wanted = draw(64, 16) if len(sys.argv) < 4 else None
pages = int(open("/proc/self/statm").read().split()[0])
used = pages * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2)
result = {"before": lowered_batch(model)}
try:
    result["same"] = draw(64, 256) == wanted
    result["again"] = draw(64, 256) == wanted
except ModelError as error:
    result["error"] = str(error)
result["after"] = lowered_batch(model)
print(json.dumps(result))
"""


def draw_within(megabytes: int, *more: str, vocabulary: int = 30_000) -> dict[str, object]:
    """Draws 256 responses at a time with so much more memory than 16 at a time took."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(megabytes), str(vocabulary), *more],
        capture_output=True, text=True,
        cwd=Path(__file__).parent, env={"PYTHONPATH": str(Path(__file__).parent),
                                        "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_where_memory_runs_out_half_as_many_are_drawn_at_a_time() -> None:
    found = draw_within(60)
    assert found["before"] is None
    assert found["after"] in (16, 32, 64, 128)
    assert found["same"]
    assert found["again"]


def test_where_there_is_room_nothing_is_lowered() -> None:
    found = draw_within(4000)
    assert found["after"] is None
    assert found["same"]


def test_where_not_one_response_fits_the_settings_to_lower_are_named() -> None:
    found = draw_within(30, "at once", vocabulary=3_000_000)
    assert "max_new_tokens" in str(found["error"])
    assert found["after"] == 1
