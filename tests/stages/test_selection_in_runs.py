"""Every selection rule in a real run: what it picks from the stored pool is what is trained on."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ablate.config.compose import compose
from ablate.config.selection import RULES
from ablate.errors import DataError
from ablate.stages.complete import Outcome, complete
from ablate.stages.context import Context
from ablate.stages.graph import plan
from ablate.stages.policy import select_groups
from ablate.store.layout import Layout
from ablate.store.stages import StageStore
from smallrun import SMALL, run


def stage(outcome: Outcome, role: str) -> dict[str, Any]:
    return next(s for s in outcome.record.data["stages"] if s["role"] == role)


def scored_pool(store: Path, outcome: Outcome) -> pd.DataFrame:
    """The pool with its scores and the number of tokens of prompt and response."""
    pool = pd.read_parquet(
        store / "stages/pool" / stage(outcome, "pool/train")["id"] / "pool.parquet"
    )
    scores = pd.read_parquet(
        store / "stages/scores" / stage(outcome, "scores")["id"] / "scores.parquet"
    )
    table = pool.merge(scores, on=["prompt_id", "index"])
    table["tokens"] = table["prompt_ids"].map(len) + table["response_ids"].map(len)
    return table


def tokens_of_extremes(table: pd.DataFrame, best: int, worst: int) -> range:
    """Least and most tokens that the best and worst responses of all prompts can have (ties)."""
    least = most = 0
    for _, rows in table.groupby("prompt_id"):
        for count, side in ((best, rows.nlargest), (worst, rows.nsmallest)):
            if count:
                chosen = side(count, "reward", keep="all")
                edge = chosen["reward"].iloc[-1]
                sure = chosen[chosen["reward"] != edge]["tokens"].sum()
                open_places = count - (chosen["reward"] != edge).sum()
                edges = chosen[chosen["reward"] == edge]["tokens"]
                least += sure + edges.nsmallest(open_places).sum()
                most += sure + edges.nlargest(open_places).sum()
    return range(least, most + 1)


@pytest.mark.parametrize("how", list(RULES))
def test_a_run_trains_on_what_its_rule_picks(store: Path, how: str) -> None:
    outcome = run(store, "num_responses=2", f"num_responses.select={how}")
    data = outcome.record.data
    assert data["status"] == "done"
    assert stage(outcome, "policy")["result"]["responses"] == 48
    table = scored_pool(store, outcome)
    trained = data["tokens_trained"]
    if how == "first":
        assert trained == table[table["index"] < 2]["tokens"].sum()
    elif how == "best_of_n":
        assert trained in tokens_of_extremes(table, 2, 0)
    elif how in ("best_worst", "max_variance"):
        assert trained in tokens_of_extremes(table, 1, 1)


def test_rules_give_policies_of_their_own(store: Path) -> None:
    weights = {
        how: stage(run(store, "num_responses=2", f"num_responses.select={how}"), "policy")[
            "result"
        ]["weights"]
        for how in RULES
    }
    # with two of four, the largest variance is the best and the worst
    assert weights.pop("max_variance") == weights["best_worst"]
    assert len(set(weights.values())) == len(weights)


def test_the_temperature_of_rejection_sampling_is_read(store: Path) -> None:
    words = ["num_responses=2", "num_responses.select=rso"]
    cold = run(store, *words, "num_responses.rso_beta=1e-9").record.data["policy"]["weights"]
    best = run(store, "num_responses=2", "num_responses.select=best_of_n")
    hot = run(store, *words, "num_responses.rso_beta=1e9").record.data["policy"]["weights"]
    assert cold != hot
    table = scored_pool(store, best)
    if not table.groupby("prompt_id")["reward"].apply(lambda s: s.duplicated().any()).any():
        assert cold == best.record.data["policy"]["weights"]


def test_prompts_with_a_narrow_gap_are_left_out_for_every_k(store: Path) -> None:
    wide = run(store, "num_responses=2")
    spread = (
        scored_pool(store, wide).groupby("prompt_id")["reward"].agg(lambda s: s.max() - s.min())
    )
    limit = float(spread.median())
    for k in (2, 4):
        kept = run(store, f"num_responses={k}", f"num_responses.min_gap={limit}")
        result = stage(kept, "policy")["result"]
        assert result["groups"] == (spread >= limit).sum()
        assert result["dropped_by_min_gap"] == (spread < limit).sum() > 0
    with pytest.raises(DataError, match=r"min_gap=100.0 leaves out all 24 prompts; the widest"):
        run(store, "num_responses.min_gap=100")


def test_a_file_that_holds_the_better_response_first_gives_random_pairs(tmp_path: Path) -> None:
    """best_vs_random takes the lowest number among the worse; places in a file are no draw."""
    path = tmp_path / "ranked.jsonl"
    rows = [
        {
            "prompt": f"question {number}?",
            "responses": [f"answer {'x' * length}" for length in (4, 3, 2, 1)],
            "scores": [4.0, 3.0, 2.0, 1.0],
            "split": split,
        }
        for number, split in enumerate(
            ["train"] * 60 + ["valid"] * 2 + ["test"] * 2 + ["judge"] * 8
        )
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    kept = [word for word in SMALL if not word.startswith(("dataset.", "evaluation."))]
    words = ["dataset=local", f"dataset.path={path}", "objective=dpo", "num_responses=4",
             "base_model.sft.steps=1", "dataset.pool.sampling.max_new_tokens=4"]  # fmt: skip
    config = compose([*kept, *words, f"results_dir={tmp_path / 'store'}"])
    layout = Layout(tmp_path / "store")
    outcome = complete(plan(config, layout), layout)
    policy = next(s for s in plan(config, layout).stages() if s.name == "policy")
    store = StageStore(layout)
    inputs = {role: store.path(s.name, s.identity) for role, s in policy.inputs.items()}
    context = Context(policy.params, inputs, tmp_path, config, lambda *_: None, lambda *_: None)
    groups, _ = select_groups(context)
    assert outcome.record.data["status"] == "done"
    rejected = []
    for group in groups:
        assert group.pool_index is not None
        assert group.rewards is not None
        best = max(group.rewards)
        worse = [(n, r) for n, r in zip(group.pool_index, group.rewards, strict=True) if r < best]
        rejected.append(min(worse)[1])
    # 60 draws from three: each is taken 20 times, give or take 3.7
    assert all(8 <= rejected.count(score) <= 32 for score in set(rejected))
    assert len(set(rejected)) == 3
