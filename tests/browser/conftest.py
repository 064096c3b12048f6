"""One browser and one report for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chrome import Chrome

from ablate.cli.main import run
from ablate.store import records
from ablate.store.layout import Layout
from madestore import answers, config_of, freeze, put

TEXT = 'a <b>bold</b> & "quoted" answer, ' + "x" * 400


def curve(top: float, seed: int) -> pd.DataFrame:
    step = np.arange(0, 50, 10)
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"step": step, "judge_reward": top - (step - 25.0) ** 2 / 400 + rng.normal(0, 0.05, 5),
         "training_reward": step / 20 + rng.normal(0, 0.05, 5), "kl": step / 10.0,
         "length": 8.0, "truncated": 0.0}
    )  # fmt: skip


def steps(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    count = 60
    return pd.DataFrame(
        {"step": np.arange(1, count + 1), "loss": rng.random(count),
         "accuracy": np.linspace(0.5, 0.8, count) + rng.normal(0, 0.02, count),
         "log_ratio": rng.normal(0, 1, count), "grad_norm": rng.random(count) + 0.1}
    )  # fmt: skip


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of twenty-two runs; one failed, one is missing, one diverged."""
    root = tmp_path_factory.mktemp("report") / "store"
    made = []
    for number, objective in enumerate(("dpo", "simpo", "kto", "rpo_bwd")):
        for k in (2, 4):
            for seed in (0, 1, 2):
                if (objective, k, seed) in (("kto", 4, 1), ("kto", 4, 2)):
                    continue
                table = answers(5 + number / 4 + seed / 3, seed * 10 + k + number, prompts=40)
                table.loc[table["split"] == "test", "response"] = TEXT
                made.append(
                    put(
                        root, table, objective=objective, num_responses=k, seed=seed,
                        status="diverged" if (objective, k, seed) == ("kto", 2, 1) else "done",
                        steps=steps(seed), curve=curve(5 + number, seed),
                    )
                )  # fmt: skip
    configs = [record.data["config"] for record in made]
    configs += [config_of(objective="kto", num_responses=4, seed=seed) for seed in (1, 2)]
    ids = [record.identity for record in made] + ["a" * 32, "b" * 32]
    freeze(root, configs, ids, "mine")
    records.write_failure(records.new_attempt(Layout(root), "a" * 32), "x", "out of memory", None)
    target = root.parent / "mine.html"
    words = ["report", "--sweep", "mine", "--rows", "objective", "--cols", "num_responses",
             "--baseline", "dpo", "--margin", "0.3", "--out", str(target)]  # fmt: skip
    assert run([*words, f"results_dir={root}"]) == 0
    return target


@pytest.fixture(scope="session")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a tuned study of nine arms that differ in four factors."""
    root = tmp_path_factory.mktemp("long") / "store"
    for number, objective in enumerate(("dpo", "rpo_bwd", "rpo_sqloo")):
        for collection, reward, checkpoint in (
            ("offline", "gold", "valid"), ("online", "explicit", "valid"),
            ("online", "explicit", "last"),
        ):  # fmt: skip
            for seed, beta in ((0, 0.1), (0, 0.2), (5, 0.2), (6, 0.2)):
                table = answers(5 + number / 4 + beta, seed + number, prompts=20)
                put(root, table, objective=objective, collection=collection, reward=reward,
                    training__select_checkpoint=checkpoint, objective__beta=beta, seed=seed,
                    steps=steps(seed), curve=curve(5 + number, seed))  # fmt: skip
    target = root.parent / "long.html"
    words = ["report", "--rows", "objective", "collection", "reward",
             "training.select_checkpoint", "--baseline", "dpo offline gold valid",
             "--choose", "reward/valid", "--out", str(target)]  # fmt: skip
    assert run([*words, f"results_dir={root}"]) == 0
    return target


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    opened = Chrome(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
