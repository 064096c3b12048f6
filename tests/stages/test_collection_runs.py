"""Whole small runs of every level of collection: rounds, fresh responses, the curve, failures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.config import legality
from ablate.config.compose import compose
from ablate.datasets.lists import Lists
from ablate.errors import StageFailed
from ablate.models.loading import load_model, weights_digest
from ablate.models.logps import response_logps
from ablate.models.tokenizer import load_tokenizer
from ablate.results import load_curve, load_train
from ablate.stages.complete import Outcome, complete
from ablate.stages.graph import plan
from ablate.stages.preflight import check_data
from ablate.store.layout import Layout
from smallrun import SMALL, planned, run


def stages(outcome: Outcome) -> dict[str, dict]:  # type: ignore[type-arg]
    return {stage["role"]: stage for stage in outcome.record.data["stages"]}


def folder(store: Path, outcome: Outcome, role: str) -> Path:
    stage = stages(outcome)[role]
    return store / "stages" / stage["name"] / stage["id"]


#: two optimizer steps in each round of two
ROUNDS = ["collection=iterative", "collection.round_prompts=0.5", "collection.new_prompts=[1,0.5]",
          "collection.rounds=2", "training.batch_size=6", "collection.curve_prompts=4"]  # fmt: skip
ONLINE = ["collection=online", "training.epochs=1", "collection.curve_every=2",
          "collection.curve_prompts=4"]  # fmt: skip


@pytest.fixture(scope="module")
def iterative(store: Path) -> Outcome:
    return run(store, *ROUNDS)


@pytest.fixture(scope="module")
def online(store: Path) -> Outcome:
    return run(store, *ONLINE)


def test_a_round_is_drawn_from_the_last_policy_and_starts_at_it(
    store: Path, iterative: Outcome
) -> None:
    """Pool, labels and reference of round 2 recomputed from the checkpoint of round 1."""
    assert {"pool/round 1", "pool/round 2", "policy/round 1", "policy"} <= stages(iterative).keys()
    first = folder(store, iterative, "policy/round 1")
    checkpoint = first / f"step-{json.loads((first / 'result.json').read_text())['last']}"
    pool = pd.read_parquet(folder(store, iterative, "pool/round 2") / "pool.parquet")
    logps = pd.read_parquet(folder(store, iterative, "ref_logps/round 2") / "ref_logps.parquet")
    items = [(list(row.prompt_ids), [list(row.response_ids)]) for row in pool.itertuples()]
    model, tokenizer = load_model(checkpoint, device="cpu"), load_tokenizer(str(checkpoint))
    wanted = [row[0] for row in response_logps(model, tokenizer, items, 4096)]
    assert logps["logp"].tolist() == pytest.approx(wanted, abs=1e-4)
    sft = load_model(folder(store, iterative, "sft") / "model", device="cpu")
    other = [row[0] for row in response_logps(sft, tokenizer, items, 4096)]
    # drawn from the last policy, they are likelier there than under SFT
    assert np.mean(wanted) > np.mean(other)
    steps = load_train(store, [iterative.record.identity])
    assert steps[["round", "step"]].to_numpy().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    starts = steps[steps["step"] == 1]
    assert np.abs(starts["log_ratio"]).max() < 1e-3
    assert iterative.record.data["tokens_trained"] == steps.groupby("round")["tokens"].max().sum()


def test_prompts_of_a_round_are_new_and_old_as_asked(store: Path, iterative: Outcome) -> None:
    pools = [
        set(pd.read_parquet(folder(store, iterative, f"pool/round {n}") / "pool.parquet").prompt_id)
        for n in (1, 2)
    ]
    assert [len(pool) for pool in pools] == [12, 12]
    assert len(pools[0] & pools[1]) == 6


def test_what_is_drawn_in_training_and_for_the_curve_is_counted(
    store: Path, online: Outcome
) -> None:
    """Every drawn response enters the loss here: the step table counts them by another route."""
    steps = load_train(store, [online.record.identity])
    curve = load_curve(store, [online.record.identity])
    drawn = (steps["responses"] * steps["length"]).sum() + 4 * curve["length"].sum()
    generated = stages(online)["policy"]["result"]["generated"]
    assert generated["tokens"] == round(drawn)
    assert generated["responses"] == steps["responses"].sum() + 4 * len(curve)
    per_stage = [s["result"]["generated"]["tokens"] for s in online.record.data["stages"]
                 if "generated" in s["result"]]  # fmt: skip
    assert online.record.data["tokens_generated"] == sum(per_stage)
    assert (
        len(per_stage) == 5
    )  # two pools (one of labelled test pairs), policy, answers, evaluation


def test_more_rounds_share_the_beginning(store: Path, iterative: Outcome) -> None:
    shorter = planned(store, *ROUNDS, "collection.rounds=1")
    longer = planned(store, *ROUNDS, "collection.rounds=3")
    ours = {stage["id"] for stage in iterative.record.data["stages"]}
    policies = {
        n: [s.identity for s in plan.stages() if s.name == "policy"]
        for n, plan in ((1, shorter), (3, longer))
    }
    mine = [s["id"] for s in iterative.record.data["stages"] if s["name"] == "policy"]
    assert policies[1] == mine[:1]
    assert policies[3][:2] == mine
    new = [s for s in longer.stages() if s.identity not in ours]
    assert {s.role for s in new} == {"round 3", "policy", "evaluation"}


def test_one_round_of_all_prompts_is_the_offline_run(store: Path) -> None:
    words = ["collection=iterative", "collection.rounds=1", "collection.round_prompts=1.0",
             "collection.curve_every=null"]  # fmt: skip
    assert planned(store, *words).identity == planned(store).identity


def test_a_second_round_redone_from_the_store_is_the_same(store: Path, iterative: Outcome) -> None:
    """The first round is found, the second computed again: same weights, same answers."""
    import shutil

    before = folder(store, iterative, "policy")
    kept = store / "kept"
    shutil.move(before, kept)
    shutil.rmtree(iterative.record.path.parent)
    again = run(store, *ROUNDS)
    assert not again.found
    redone = stages(again)
    assert redone["policy/round 1"]["computed_seconds"] is None
    assert redone["policy"]["computed_seconds"] is not None
    assert again.record.data["policy"]["weights"] == iterative.record.data["policy"]["weights"]
    assert again.record.data["metrics"] == iterative.record.data["metrics"]
    last = again.record.data["policy"]["step"]
    assert weights_digest(kept / f"step-{last}") == weights_digest(
        folder(store, again, "policy") / f"step-{last}"
    )


def test_cold_and_warm_are_the_same_run(tmp_path: Path, online: Outcome) -> None:
    cold = run(tmp_path, *ONLINE)
    assert cold.record.identity == online.record.identity
    assert cold.record.data["policy"]["weights"] == online.record.data["policy"]["weights"]
    assert cold.record.data["metrics"] == online.record.data["metrics"]
    for name in ("train.parquet", "curve.parquet"):
        tables = [pd.read_parquet(o.record.path / name) for o in (online, cold)]
        kept = [table.drop(columns="seconds", errors="ignore") for table in tables]
        pd.testing.assert_frame_equal(*kept)


def test_the_curve_says_what_the_evaluation_says(store: Path) -> None:
    """Its last point over all valid prompts is the evaluation's estimate on valid."""
    outcome = run(store, *ONLINE, "collection.curve_prompts=8", "seed=3")
    curve = load_curve(store, [outcome.record.identity])
    assert curve["step"].tolist() == [0, 2, 3]
    data = outcome.record.data
    for name, metric in (("judge_reward", "reward"), ("kl", "kl"), ("length", "length")):
        assert curve[name].iloc[-1] == pytest.approx(data["metrics"][metric]["valid"]["mean"])
    assert curve["judge_reward"].iloc[0] == pytest.approx(
        data["metrics"]["reward_sft"]["valid"]["mean"]
    )
    assert curve["kl"].iloc[0] == pytest.approx(0, abs=1e-5)
    assert curve["training_reward"].iloc[-1] == pytest.approx(
        curve["judge_reward"].iloc[-1] / data["reward"]["scale"]
    )
    assert data["rounds"][0]["curve"] == [
        {name: pytest.approx(value) for name, value in row.items()}
        for row in curve.drop(columns="id").to_dict("records")
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["collection=semi_online", "collection.refresh_every=2", "objective=kto", "reward=labels"],
        ["reward=explicit", "objective=rpo_sqloo", "collection.num_samples=6",
         "dataset.train_prompts=mix"],
        ["reward=implicit", "objective=inpo", "collection.rounds=2",
         "collection.round_prompts=0.5", "training.select_checkpoint=valid",
         "training.checkpoint_every=1"],
        ["objective=xpo", "num_responses=2", "dataset.train_prompts=ood"],
        ["reward=pairwise_bt", "objective=egpo", "collection.refresh_every=6",
         "training.epochs=2"],
        ["objective=beta_dpo", "training.micro_batch_size=2", "base_model.lora={r: 2, alpha: 4, "
         "target_modules: all-linear}"],
    ],
    ids=lambda words: " ".join(words),
)  # fmt: skip
def test_any_objective_and_reward_trains_online(store: Path, words: list[str]) -> None:
    outcome = run(store, *ONLINE, *words)
    data = outcome.record.data
    assert data["status"] == "done"
    steps = pd.read_parquet(outcome.record.path / "train.parquet")
    # a step whose prompts all hold nothing but ties teaches nothing
    assert ((steps["grad_norm"] > 0) == (steps["usable"] > 0)).all()
    assert steps["usable"].sum() > 0
    assert (steps["responses"] == steps["prompts"] * data["config"]["num_responses"]["k"]).all()
    curve = pd.read_parquet(outcome.record.path / "curve.parquet")
    of_answers_alone = data["reward"]["kind"] not in ("labels", "pairwise")
    assert ("training_reward" in curve) == of_answers_alone
    assert curve["kl"].iloc[-1] > 0


@pytest.mark.parametrize(
    "words",
    [
        ["objective=inpo", "collection.reference=sft", "dataset.train_prompts=mix"],
        ["collection.init=sft", "training.select_checkpoint=valid", "reward=explicit"],
        ["objective=tdpo2", "collection.init=sft"],
    ],
    ids=lambda words: " ".join(words),
)
def test_rounds_with_reference_and_start_of_ones_own(store: Path, words: list[str]) -> None:
    outcome = run(store, *ROUNDS, *words)
    steps = load_train(store, [outcome.record.identity])
    second = steps[(steps["round"] == 2) & (steps["step"] == 1)].iloc[0]
    # where start and reference part, the first log-ratios are not zero
    assert abs(second["log_ratio"]) > 1e-2
    curve = load_curve(store, [outcome.record.identity])
    starts = curve[curve["step"] == 0].set_index("round")["kl"]
    at_sft = "collection.init=sft" in words
    assert (starts[2] < 1e-5) == at_sft


def test_the_round_before_is_the_last_policy_whatever_the_reference(store: Path) -> None:
    words = ["objective=inpo", "collection.reference=sft", "dataset.train_prompts=mix"]
    outcome = run(store, *ROUNDS, *words)
    policy = next(
        stage for stage in planned(store, *ROUNDS, *words).stages() if stage.role == "policy"
    )
    previous = policy.inputs["prev_logps"].inputs["reference"]
    assert (previous.name, previous.role) == ("policy", "round 1")
    assert policy.inputs["ref_logps"].inputs["reference"].name == "sft"
    assert outcome.record.data["status"] == "done"


def test_a_round_that_diverges_ends_the_run_there(store: Path) -> None:
    words = ["training.lr=1e30", "training.max_grad_norm=null"]
    data = run(store, *ROUNDS, *words).record.data
    assert data["status"] == "diverged"
    assert data["divergence"]["step"] == 2
    assert [done["groups"] for done in data["rounds"]] == [12, 0]
    assert data["metrics"]["kl"]["test"]["mean"] == pytest.approx(0, abs=1e-6)


def test_a_reward_that_dies_in_the_middle_publishes_nothing(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge fails at some answer of the second step; the stage is whole or absent."""
    judge, calls = Lists.judge, []

    def failing(self, prompt, response):  # type: ignore[no-untyped-def]
        calls.append(prompt.split)
        if calls.count("train") > 24 * 4 * 2 + 40:  # labels and scores of the pool, then 32 a step
            raise ConnectionError("the judge is gone")
        return judge(self, prompt, response)

    monkeypatch.setattr(Lists, "judge", failing)
    with pytest.raises(StageFailed, match=r"'policy' failed.*the judge is gone"):
        run(tmp_path, *ONLINE)
    assert not (tmp_path / "stages" / "policy").exists()
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
    assert (tmp_path / "stages" / "scores").exists()
    monkeypatch.setattr(Lists, "judge", judge)
    assert run(tmp_path, *ONLINE).record.data["status"] == "done"


def local_file(path: Path) -> Path:
    """Prompts with two ranked responses: which is better, no scores."""
    rows = [
        {"prompt": f"question {n}?", "chosen": f"{'xyz'[n % 3] * (1 + n % 5)}", "rejected": "no"}
        for n in range(60)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["collection=online", "reward=gold", "reward.scores_from=judge", "training.epochs=0.5"],
        ["collection=online", "reward=labels", "objective=dpo", "training.epochs=0.5"],
        ["collection=iterative", "collection.rounds=2", "reward=explicit",
         "dataset.reward_share=0.2", "dataset.pool.num_responses=3"],
    ],
    ids=lambda words: " ".join(words),
)  # fmt: skip
def test_prompts_of_a_file_are_answered_by_the_policy_and_scored_by_its_judge(
    tmp_path: Path, words: list[str]
) -> None:
    """More responses than the file holds, and scores that it does not: the judge gives them."""
    path = local_file(tmp_path / "prefs.jsonl")
    kept = [word for word in SMALL if not word.startswith(("dataset.", "evaluation."))]
    local = ["dataset=local", f"dataset.path={path}", "dataset.judge_share=0.2",
             "dataset.valid_share=0.1", "dataset.test_share=0.1", "num_responses=3",
             "dataset.pool.sampling.max_new_tokens=12", "dataset.pool.sampling.temperature=3",
             "evaluation.num_valid=4", "evaluation.num_test=4",
             "collection.curve_prompts=3"]  # fmt: skip
    config = compose([*kept, f"results_dir={tmp_path / 's'}", *local, *words])
    legality.check(config)
    check_data(config)
    layout = Layout(tmp_path / "s")
    data = complete(plan(config, layout), layout).record.data
    assert data["status"] == "done"
    assert all(done["responses"] == 3 * done["groups"] for done in data["rounds"]) or (
        data["config"]["collection"]["refresh_every"] == 1
    )
    assert "reward_model/judge" in {stage["role"] for stage in data["stages"]}
