"""Plans: which settings change which stages, and what seeds reach."""

import json

import pytest

from ablate.config.compose import compose
from ablate.stages.graph import RunPlan, plan, plan_labels
from ablate.store.layout import Layout


def planned(tmp_path, *words: str) -> RunPlan:  # type: ignore[no-untyped-def]
    return plan(compose([f"results_dir={tmp_path}", *words]), Layout(tmp_path))


def identities(result: RunPlan) -> dict[str, str]:
    return {f"{stage.name}/{stage.role}": stage.identity for stage in result.stages()}


def changed(tmp_path, before: list[str], after: list[str]) -> set[str]:  # type: ignore[no-untyped-def]
    one, two = identities(planned(tmp_path, *before)), identities(planned(tmp_path, *after))
    assert one.keys() == two.keys()
    return {name.split("/")[0] for name in one if one[name] != two[name]}


ALL = {"sft", "pool", "labels", "scores", "ref_logps", "policy", "answers", "evaluation"}


@pytest.mark.parametrize(
    ("word", "stages"),
    [
        ("objective=dpo", {"policy", "evaluation"}),
        ("objective.beta=0.7", {"policy", "evaluation"}),
        ("num_responses=8", {"policy", "evaluation"}),
        ("num_responses.select=first", {"policy", "evaluation"}),
        ("num_responses.min_gap=0.5", {"policy", "evaluation"}),
        ("num_responses.rso_beta=2", set()),
        ("sampler.batch_size=7", set()),
        ("sampler=continuous", ALL - {"sft"}),
        ("sampler=vllm", ALL - {"sft"}),
        ("training.batch_size=32", {"policy", "evaluation"}),
        ("training.lr=1e-5", {"policy", "evaluation"}),
        ("reward=labels", {"scores", "policy", "evaluation"}),
        ("shaping=slpo", {"scores", "policy", "evaluation"}),
        ("shaping.name=nothing", set()),
        ("evaluation.num_test=100", {"answers", "evaluation"}),
        ("evaluation.sampling.temperature=0.5", {"answers", "evaluation"}),
        ("evaluation.num_pairs=100", {"pool", "evaluation"}),
        ("evaluation.pair_responses=3", {"pool", "evaluation"}),
        ("dataset.sizes.test=600", {"pool", "answers", "evaluation"}),
        ("dataset.train_prompts=mix", ALL - {"sft", "answers"}),
        ("dataset.pool.num_responses=8", ALL - {"sft", "answers"}),
        ("base_model.sft.steps=50", ALL),
        ("base_model.architecture.num_layers=2", ALL),
        ("seed=1", ALL),
        ("seed.scope=policy", set()),
        ("runtime.threads=1", set()),
        ("tracker=none", set()),
        ("force=true", set()),
        ("objective.title=other words", set()),
    ],
)  # fmt: skip
def test_a_setting_changes_the_stages_that_it_decides_and_no_others(tmp_path, word, stages):  # type: ignore[no-untyped-def]
    base = ["objective=dpo"] if word == "reward=labels" else []
    assert changed(tmp_path, base, [*base, word]) - {"labels"} == stages - {"labels"}


def test_scope_policy_redraws_the_policy_alone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    one = ["seed.scope=policy", "seed=1"]
    assert changed(tmp_path, ["seed.scope=policy"], one) == {"policy", "evaluation"}


def test_learnt_rewards_see_other_prompts_than_the_policy(tmp_path) -> None:  # type: ignore[no-untyped-def]
    stages = {f"{s.name}/{s.role}": s for s in planned(tmp_path, "reward=explicit").stages()}
    learnt = stages["reward_model/explicit"]
    assert learnt.inputs["pool_id"].params["split"] == "reward"
    assert learnt.inputs["pool_ood"].params["split"] == "reward_ood"
    assert stages["policy/policy"].inputs["pool"].params["split"] == "train"


def test_runs_of_a_sweep_share_all_stages_before_the_policy(tmp_path) -> None:  # type: ignore[no-untyped-def]
    plans = [planned(tmp_path, f"objective={o}", f"num_responses={k}")
             for o in ("dpo", "simpo", "rpo_bwd") for k in (2, 4)]  # fmt: skip
    shared = set.intersection(*(set(identities(p).values()) for p in plans))
    assert len({p.identity for p in plans}) == 6
    assert len(shared) == len(identities(plans[0])) - 2


def test_asking_for_more_prompts_than_there_are_is_the_same_evaluation(tmp_path) -> None:  # type: ignore[no-untyped-def]
    one = planned(tmp_path, "evaluation.num_test=512")
    assert planned(tmp_path, "evaluation.num_test=5000").identity == one.identity


def test_without_labelled_pairs_a_run_is_what_it_was_before_there_were_any(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = compose([f"results_dir={tmp_path}", "evaluation.num_pairs=0"])
    plain = config.model_dump(mode="json")
    del plain["evaluation"]["num_pairs"], plain["evaluation"]["pair_responses"]
    older = plan(type(config).model_validate(plain), Layout(tmp_path))
    assert older.identity == plan(config, Layout(tmp_path)).identity
    assert not any(stage.role == "pairs" for stage in older.stages())


def test_a_run_is_its_evaluation(tmp_path) -> None:  # type: ignore[no-untyped-def]
    result = planned(tmp_path)
    assert result.identity == result.evaluation.identity == result.stages()[-1].identity


def test_selection_by_valid_adds_a_stage_and_shares_the_policy(tmp_path) -> None:  # type: ignore[no-untyped-def]
    last = identities(planned(tmp_path))
    valid = identities(planned(tmp_path, "training.select_checkpoint=valid"))
    assert valid.keys() - last.keys() == {"select/select"}
    assert valid["policy/policy"] == last["policy/policy"]


def test_the_same_folder_of_weights_is_the_same_model_wherever_it_lies(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "config.json").write_text("{}")
    words = ["base_model=hf", "base_model.sft.steps=3"]
    runs = [planned(tmp_path, *words, f"base_model.path={tmp_path / n}") for n in ("one", "two")]
    assert runs[0].identity == runs[1].identity
    (tmp_path / "two" / "model.safetensors").write_bytes(b"others!")
    assert planned(tmp_path, *words, f"base_model.path={tmp_path / 'two'}").identity != (
        runs[0].identity
    )


def test_what_is_sampled_for_a_look_is_what_a_run_trains_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rows = [
        json.dumps({"prompt": f"{n}?", "chosen": f"yes {n}", "rejected": "no"}) for n in range(80)
    ]
    (tmp_path / "prefs.jsonl").write_text("\n".join(rows))
    own = ["dataset=local", f"dataset.path={tmp_path / 'prefs.jsonl'}", "num_responses=2",
           "objective=dpo"]  # fmt: skip
    for words in (
        [],
        ["reward=explicit"],
        ["collection=online"],
        ["collection=iterative"],
        [*own, "reward=labels"],
        # two stages `labels`: the judge's own, of other prompts, come before those of training
        [*own, "reward=labels", "dataset.labelled_by=judge"],
    ):
        shown = plan_labels(compose([f"results_dir={tmp_path}", *words]), Layout(tmp_path))
        trained = planned(tmp_path, *words).stages()
        scores = next(stage for stage in trained if stage.name == "scores")
        assert scores.inputs["labels"].identity == shown.identity
        assert shown.params["split"] == "train"
