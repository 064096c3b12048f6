"""Notes on tuned arms that lost trials, read without the frozen runs."""

from pathlib import Path

import pandas as pd

from ablate.results.sweeps import _choices
from ablate.store.sweeps import Choice, Contest, FrozenSweep, Trial

BETA = {"objective.beta": 0.5}


def sweep(names: dict[str, str], matches: dict[str, list[str]] | None = None) -> FrozenSweep:
    """One contest of two trials per run, of which the first has no record.

    matches: what the contest of a run stands for in a study of K.
    """
    held = matches or {}
    contests = [
        Contest(
            key=run,
            by="reward/valid",
            trials=[Trial({"objective.beta": 0.1}, [f"{run}-low"]), Trial(BETA, [run])],
            seeds=[0],
            labels=[{"match": name} for name in held.get(run, [])],
            choice=Choice(1, BETA, [None, 2.0], {0: f"{run}-0"}, {}),
        )
        for run in names
    ]
    every = {run: name for key, name in names.items() for run in (key, f"{key}-low")}
    return FrozenSweep(Path("nowhere"), list(names), every, {}, contests, [], 0.0, "local", {}, {})


def test_arms_of_one_name_are_told_apart_by_settings_that_nobody_tuned() -> None:
    names = {"a": "dpo k=2 seed=1000", "b": "dpo k=2 seed=1000", "c": "ipo k=2 seed=1000"}
    runs = pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "config.training.select_checkpoint": ["valid", "last", "last"],
            "config.objective.beta": [0.5, 0.1, 0.5],
        }
    )
    found = _choices(sweep(names), runs)
    assert [note.arm for note in found] == [
        "dpo k=2 training.select_checkpoint=valid",
        "dpo k=2 training.select_checkpoint=last",
        "ipo k=2",
    ]
    assert {note.told.partition(",")[0] for note in found} == {"chosen among 1 of 2 trials"}
    assert [note.runs for note in found] == [("a-0",), ("b-0",), ("c-0",)]
    unread = _choices(sweep(names), runs[runs["id"] == "c"])
    assert [note.arm for note in unread] == ["dpo k=2", "dpo k=2", "ipo k=2"]


def test_the_match_is_told_only_where_a_sweep_has_several() -> None:
    names = {"a": "dpo k=2 seed=0", "b": "dpo k=4 seed=0"}
    none = pd.DataFrame({"id": []})
    for matches, wanted in (
        ({"a": ["prompts"], "b": ["prompts"]}, ["dpo k=2", "dpo k=4"]),
        ({"a": ["prompts", "tokens"], "b": ["tokens"]},
         ["dpo k=2 (prompts, tokens)", "dpo k=4 (tokens)"]),
    ):  # fmt: skip
        told = _choices(sweep(names, matches), none)
        assert [note.arm for note in told] == wanted
