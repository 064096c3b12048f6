"""Every selection rule in a real run: what it picks from the stored pool is what is trained on."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ablate.config import legality
from ablate.config.compose import compose
from ablate.config.selection import RULES
from ablate.errors import DataError
from ablate.stages.complete import Outcome, complete
from ablate.stages.graph import plan
from ablate.store.layout import Layout
from smallrun import SMALL


def run(store: Path, *words: str) -> Outcome:
    config = compose([*SMALL, f"results_dir={store}", *words])
    legality.check(config)
    layout = Layout(store)
    return complete(plan(config, layout), layout)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


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
                chosen = side(count, "score", keep="all")
                edge = chosen["score"].iloc[-1]
                sure = chosen[chosen["score"] != edge]["tokens"].sum()
                open_places = count - (chosen["score"] != edge).sum()
                edges = chosen[chosen["score"] == edge]["tokens"]
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
    if not table.groupby("prompt_id")["score"].apply(lambda s: s.duplicated().any()).any():
        assert cold == best.record.data["policy"]["weights"]


def test_prompts_with_a_narrow_gap_are_left_out_for_every_k(store: Path) -> None:
    wide = run(store, "num_responses=2")
    spread = scored_pool(store, wide).groupby("prompt_id")["score"].agg(lambda s: s.max() - s.min())
    limit = float(spread.median())
    for k in (2, 4):
        kept = run(store, f"num_responses={k}", f"num_responses.min_gap={limit}")
        result = stage(kept, "policy")["result"]
        assert result["groups"] == (spread >= limit).sum()
        assert result["dropped_by_min_gap"] == (spread < limit).sum() > 0
    with pytest.raises(DataError, match=r"min_gap=100.0 leaves out all 24 prompts; the widest"):
        run(store, "num_responses.min_gap=100")
