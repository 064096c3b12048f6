"""Small rows of our own in the schemas of public preference sets, and their files."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd

Rows = list[dict[str, Any]]


def ultrafeedback(count: int, source: str = "flan") -> Rows:
    """Four completions each, scored 1 to 4 in another order for every prompt."""
    return [
        {
            "source": source,
            "instruction": f"{source} question {i}",
            "models": ["a", "b", "c", "d"],
            "completions": [
                {
                    "model": "abcd"[k],
                    "custom_system_prompt": f"Be {k}.",
                    "response": f"answer {k} to {i}",
                    "overall_score": float((i + k) % 4 + 1),
                    "fine-grained_score": 5.0 - (i + k) % 4,
                }
                for k in range(4)
            ],
        }
        for i in range(count)
    ]


def binarized(count: int, first: int = 0) -> Rows:
    """Whole conversations, the second prompt in three with a system message."""
    rows = []
    for i in range(first, first + count):
        prompt = [{"role": "user", "content": f"question {i}"}]
        if i % 3 == 1:
            prompt = [{"role": "system", "content": "Be brief."}, *prompt]
        rows.append(
            {
                "prompt": f"question {i}",
                "prompt_id": str(i),
                "chosen": [*prompt, {"role": "assistant", "content": f"good {i}"}],
                "rejected": [*prompt, {"role": "assistant", "content": f"bad {i}"}],
                "messages": prompt,
                "score_chosen": 8.5,
                "score_rejected": 3.0,
            }
        )
    return rows


def helpsteer2(count: int, first: int = 0) -> Rows:
    """Two rows in succession per prompt; every fourth prompt has three turns."""
    rows = []
    for i in range(first, first + count):
        prompt = f"question {i}"
        if i % 4 == 3:
            prompt += f"\n<extra_id_1>Assistant\nreply {i}\n<extra_id_1>User\nfollow-up {i}"
        for k in range(2):
            rows.append(
                {
                    "prompt": prompt,
                    "response": f"answer {k} to {i}",
                    "helpfulness": 4 * k,
                    "correctness": 3,
                    "coherence": 4,
                    "complexity": 1 + k,
                    "verbosity": 2 - k,
                }
            )
    return rows


def helpsteer3(count: int, first: int = 0) -> Rows:
    """Preferences from -3 to 3 in turn."""
    return [
        {
            "domain": "stem",
            "language": "english",
            "context": [
                {"role": "user", "content": f"question {i}"},
                {"role": "assistant", "content": f"reply {i}"},
                {"role": "user", "content": f"follow-up {i}"},
            ],
            "response1": f"first {i}",
            "response2": f"second {i}",
            "overall_preference": i % 7 - 3,
            "individual_preference": [{"score": 1, "reasoning": "because"}],
        }
        for i in range(first, first + count)
    ]


def hh_rlhf(count: int, topic: str = "help") -> Rows:
    """Transcripts of one or, every second time, three turns."""
    rows = []
    for i in range(count):
        start = f"\n\nHuman: {topic} {i}"
        if i % 2:
            start += f"\n\nAssistant: reply {i}\n\nHuman: more {i}"
        rows.append(
            {
                "chosen": f"{start}\n\nAssistant: good {i}",
                "rejected": f"{start}\n\nAssistant: bad {i}",
            }
        )
    return rows


def nectar(count: int) -> Rows:
    """Seven answers, the rank-1 answer in another place for every prompt."""
    return [
        {
            "prompt": f"\n\nHuman: question {i}\n\nAssistant: ",
            "answers": [
                {"answer": f" answer {k} to {i}", "model": f"m{k}", "rank": float((i + k) % 7 + 1)}
                for k in range(7)
            ],
            "turns": 1,
            "num_responses": 7,
            "source": ["lmsys-chat-1m", "ours"],
            "good_natured": True,
        }
        for i in range(count)
    ]


def write(path: Path, rows: Rows) -> Path:
    """Writes rows as .jsonl, .jsonl.gz or .parquet, with the folders that it takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def write_all(name: str, folder: Path) -> Path:
    """A folder laid out like the repository of a public set."""
    if name == "ultrafeedback":
        write(folder / "flan.jsonl", ultrafeedback(30))
        write(folder / "sharegpt.jsonl", ultrafeedback(10, "sharegpt"))
    elif name == "ultrafeedback_binarized":
        write(folder / "data" / "train_prefs-00000-of-00001.parquet", binarized(40))
        write(folder / "data" / "test_prefs-00000-of-00001.parquet", binarized(8, 100))
    elif name == "helpsteer2":
        write(folder / "train.jsonl.gz", helpsteer2(40))
        write(folder / "validation.jsonl.gz", helpsteer2(8, 100))
    elif name == "helpsteer3":
        write(folder / "preference" / "train.jsonl.gz", helpsteer3(40))
        write(folder / "preference" / "validation.jsonl.gz", helpsteer3(8, 100))
    elif name == "hh_rlhf":
        write(folder / "helpful-base" / "train.jsonl.gz", hh_rlhf(40))
        write(folder / "helpful-base" / "test.jsonl.gz", hh_rlhf(8, "other"))
        write(folder / "harmless-base" / "test.jsonl.gz", hh_rlhf(8, "harm"))
    elif name == "nectar":
        write(folder / "data" / "rlaif.parquet", nectar(40))
    return folder
