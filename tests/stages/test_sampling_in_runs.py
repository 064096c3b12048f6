"""Sampling in real runs: other samplers, cuts, empty responses, and what the record says."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ablate.errors import DataError
from ablate.stages.complete import Outcome
from smallrun import run


def pool_of(store: Path, outcome: Outcome) -> tuple[dict[str, Any], pd.DataFrame]:
    """What the record says of the training pool, and the pool itself."""
    stage = next(s for s in outcome.record.data["stages"] if s["role"] == "pool/train")
    return stage["result"], pd.read_parquet(store / "stages/pool" / stage["id"] / "pool.parquet")


def test_the_record_tells_what_the_pool_is_like(store: Path) -> None:
    told, pool = pool_of(store, run(store))
    texts = pool.groupby("prompt_id")["response_ids"]
    lengths = pool["response_ids"].map(len)
    assert told["sampler"]["name"] == "transformers"
    assert told["sampler"]["noise"].startswith("keyed")
    assert (told["prompts"], told["responses"]) == (24, 96)
    assert told["tokens"] == lengths.sum()
    assert told["mean_tokens"] == pytest.approx(lengths.mean())
    assert told["truncated"] == pytest.approx((~pool["finished"]).mean())
    repeats = texts.agg(lambda rows: len(rows) - len({tuple(ids) for ids in rows}))
    assert told["duplicates_per_prompt"] == pytest.approx(repeats.mean())


def test_continuous_batching_gives_the_same_policy_and_its_own_identity(store: Path) -> None:
    plain = run(store).record
    other = run(store, "sampler=continuous")
    told, pool = pool_of(store, other)
    assert told["sampler"]["name"] == "continuous"
    assert other.record.data["config"]["sampler"]["name"] == "continuous"
    assert other.record.identity != plain.identity
    expected = pool_of(store, run(store))[1]
    pd.testing.assert_frame_equal(pool, expected)
    assert other.record.data["policy"]["weights"] == plain.data["policy"]["weights"]
    assert other.record.data["metrics"] == plain.data["metrics"]


def test_a_policy_in_training_draws_from_the_configured_sampler(store: Path) -> None:
    words = ["collection=online", "collection.curve_every=null", "training.max_steps=2"]
    plain = run(store, *words).record.data
    other = run(store, *words, "sampler=continuous").record.data
    assert other["id"] != plain["id"]
    assert other["policy"]["weights"] == plain["policy"]["weights"]


def test_the_batch_size_of_the_sampler_changes_nothing(store: Path, tmp_path: Path) -> None:
    expected = pool_of(store, run(store))[1]
    elsewhere = run(tmp_path, "sampler.batch_size=5")
    assert elsewhere.record.identity == run(store).record.identity
    pd.testing.assert_frame_equal(pool_of(tmp_path, elsewhere)[1], expected)


def test_a_hot_pool_has_empty_and_cut_responses_and_trains(store: Path) -> None:
    words = ["dataset.pool.sampling.temperature=1000", "dataset.pool.sampling.max_new_tokens=4"]
    outcome = run(store, *words, "dataset.pool.num_responses=32")
    told, pool = pool_of(store, outcome)
    assert told["empty"] > 0
    assert told["truncated"] > 0
    alone = pool["finished"] & (pool["response_ids"].map(len) == 1)
    assert told["empty"] == pytest.approx(alone.mean())
    assert (pool.loc[alone, "response"] == "").all()
    assert outcome.record.data["status"] == "done"


def test_a_cold_pool_is_full_of_duplicates(store: Path) -> None:
    told, pool = pool_of(store, run(store, "dataset.pool.sampling.temperature=0.1"))
    assert told["duplicates_per_prompt"] > pool_of(store, run(store))[0]["duplicates_per_prompt"]
    assert pool.groupby("prompt_id")["response"].nunique().eq(1).any()
    with pytest.raises(DataError, match="the same score"):  # every response is the greedy one
        run(store, "dataset.pool.sampling.top_k=1")
