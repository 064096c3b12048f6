"""Real stores of small records, published by the store's own functions, with drawn answers."""

import copy
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.config.compose import compose
from ablate.config.identity import digest
from ablate.metrics import summarize
from ablate.store import files, records
from ablate.store.layout import Layout
from ablate.store.records import Record
from ablate.store.tables import write_table

WORDS = ["oslo", "rome", "lima", "cairo", "paris", "quito", "delhi"]


@cache
def _base() -> dict[str, Any]:
    return compose(["tracker=none"]).model_dump(mode="json")


def config_of(**changes: Any) -> dict[str, Any]:
    """A frozen configuration; `objective="dpo"` names a level, `objective__beta=0.2` a setting."""
    config = copy.deepcopy(_base())
    for key, value in changes.items():
        path = key.split("__")
        if len(path) == 1:
            path = [key, {"num_responses": "k", "seed": "value"}.get(key, "name")]
        node = config
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
    return config


def answers(
    mean: float, seed: int, prompts: int = 12, spread: float = 1.0, **columns: Any
) -> pd.DataFrame:
    """Answers to held-out prompts; prompts and the SFT answers are the same for every run."""
    fixed = np.random.default_rng(7)
    rng = np.random.default_rng([seed, round(abs(mean) * 1e6)])
    parts = []
    for split in ("valid", "test", "ood"):
        difficulty = fixed.normal(0, 1, prompts)
        baseline = np.round(5 + difficulty + fixed.normal(0, 1, prompts), 2)
        score = np.round(mean + difficulty + rng.normal(0, spread, prompts), 2)
        texts = [" ".join(rng.choice(WORDS, 4)) for _ in range(prompts)]
        others = [" ".join(fixed.choice(WORDS, 4)) for _ in range(prompts)]
        ratio = rng.normal(1, 0.5, prompts)
        parts.append(
            pd.DataFrame(
                {
                    "split": split, "prompt_id": [f"{split}-{i}" for i in range(prompts)],
                    "sample": 0, "prompt": [f"list 4 city {split} {i}" for i in range(prompts)],
                    "response": texts, "num_tokens": 4, "num_chars": [len(t) for t in texts],
                    "truncated": False, "judge_score": score, "baseline_score": baseline,
                    "baseline_response": others, "logp_policy": -4.0 + ratio, "logp_ref": -4.0,
                    "kl": np.abs(ratio), "train_reward": score * 1.1 + rng.normal(0, 1, prompts),
                    **columns,
                }
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def put(
    root: Path,
    table: pd.DataFrame,
    *,
    status: str = "done",
    commit: str = "c" * 40,
    tokens: int = 1000,
    sft: str = "",
    policy: str | None = None,
    steps: pd.DataFrame | None = None,
    curve: pd.DataFrame | None = None,
    pairs: pd.DataFrame | None = None,
    **changes: Any,
) -> Record:
    """Publishes one record made of a configuration and its answers.

    policy: the stage of its policy, of which other runs may report other checkpoints.
    """
    layout = Layout(root)
    config = config_of(**changes)
    identity = digest({"config": config, "salt": commit})
    seed = config["seed"]["value"]
    name = (
        f"{config['objective']['name']} k={config['num_responses']['k']} "
        f"{config['reward']['name']} {config['base_model']['name']} {config['dataset']['name']} "
        f"seed={seed}"
    )
    data = {
        "name": name, "status": status, "divergence": None, "config": config,
        "metrics": summarize({str(c): table[c].to_numpy() for c in table.columns}),
        "reward": {"kind": "gold", "scale": 1.0, "pair_accuracy": None, "correlation": None},
        "stages": [{"role": "answers", "name": "answers", "id": digest([sft, seed]),
                    "result": {}, "computed_seconds": None},
                   *([] if policy is None else
                     [{"role": "policy", "name": "policy", "id": policy, "result": {},
                       "computed_seconds": None}])],
        "tokens_trained": tokens, "tokens_generated": 100, "device_seconds": 1.0,
        "started": time.time(), "finished": time.time(),
        "provenance": {"git": {"commit": commit, "dirty_files": []}, "versions": {"torch": "2.0"},
                       "cpu": "a processor", "host": "somewhere",
                       "scheduler": {"job": "somewhere-7", "array_task": None, "restart": 0}},
        "machine": {"device": "cpu", "threads": 1},
    }  # fmt: skip
    with files.scratch(layout.scratch, "made") as private:
        write_table(table, private / "eval.parquet")
        write_table(
            pd.DataFrame({"step": [1], "loss": [0.5]}) if steps is None else steps,
            private / "train.parquet",
        )
        for name, more in (("curve", curve), ("pairs", pairs)):
            if more is not None:
                write_table(more, private / f"{name}.parquet")
        return records.publish(layout, identity, private, data, again=True)


def freeze(root: Path, configs: Sequence[dict[str, Any]], ids: Sequence[str], name: str) -> None:
    """A frozen sweep, as `ablate -m +sweep=NAME` leaves it."""
    folder = Layout(root).sweeps / digest(list(ids))[:12]
    for config, identity in zip(configs, ids, strict=True):
        files.write_json(folder / "runs" / f"{identity}.json", config)
    files.write_json(
        folder / "sweep.json",
        {
            "overrides": [f"+sweep={name}"],
            "runs": list(ids),
            "time": time.time(),
            "names": dict.fromkeys(ids, name),
            "launcher": "local",
            "options": {},
        },
    )


def grid(root: Path, means: dict[str, float], ks: Sequence[int], seeds: Sequence[int]) -> None:
    """Every objective × K × seed; K adds nothing, each seed shifts all runs alike."""
    for objective, mean in means.items():
        for k in ks:
            for seed in seeds:
                noise = np.random.default_rng([seed, k, len(objective)]).normal(0, 0.05)
                table = answers(mean + 0.3 * seed + noise, seed * 100 + k, prompts=40)
                put(root, table, objective=objective, num_responses=k, seed=seed)
