"""The seven findings of arXiv 2502.00203 as claims, its tables, and a study's runs, by one naming.

Arms are named `objective K collection reward`, the reward being gold or learnt; `sft` is the SFT
policy. Rounds are `objective collection round N`, prompts `prompts id` and `prompts ood`.
"""

from collections.abc import Sequence

import pandas as pd

from ablate.analysis.findings import (
    Claim,
    Contrasts,
    Finding,
    from_changes,
    from_counts,
    from_intervals,
    from_runs,
)

#: what claims compare beside judge reward on test
KL, CRASHES = "KL after equal steps", "share of runs that diverged"
LEARNT, JUDGE = "learnt reward along training", "judge along training"
#: a margin is this share of the best offline gain, where none was fixed
MARGIN = 0.1


def paper_findings(offline: Sequence[str] = ("dpo", "simpo", "rpo_bwd")) -> list[Finding]:
    """The seven findings as claims about named arms; `offline` are those told to be alike."""
    two = [f"{name} 2 offline gold" for name in offline]
    worse = ["kto 2 offline gold", "rpo_sqloo 2 offline gold"]
    pairs = [(a, b) for i, a in enumerate(two) for b in two[i + 1 :]]
    four = {
        (o, c, r): f"{o} 4 {c} {r}"
        for o in ("rpo_bwd", "rpo_sqloo")
        for c, r in (("offline", "gold"), ("online", "gold"), ("online", "learnt"))
    }
    both = ("rpo_bwd", "rpo_sqloo")
    bwd, sqloo = (four[o, "online", "gold"] for o in both)
    rounds = [("dpo", "offline"), ("rpo_bwd", "offline"), ("rpo_bwd", "online")]
    gaps = [f"rpo_bwd online round {n} minus rpo_bwd offline round {n}" for n in (1, 3)]
    learnt = [four[o, "online", "learnt"] for o in both]
    return [
        Finding(
            1,
            "Offline with two responses, DPO, SimPO and RPO-bwd are alike, and better than KTO and "
            "RPO-sqloo.",
            tuple(Claim(a, "equal", b) for a, b in pairs)
            + tuple(Claim(a, "greater", b) for a in two for b in worse),
        ),
        Finding(
            2,
            "Four responses in place of two bring no gain offline.",
            tuple(
                Claim(four[o, "offline", "gold"], "not_more", f"{o} 2 offline gold") for o in both
            ),
        ),
        Finding(
            3,
            "Online, RPO-bwd beats RPO-sqloo (RLOO): higher reward, slower growth of KL, and none "
            "of its runs crash while several of sqloo's do.",
            (
                Claim(bwd, "greater", sqloo),
                Claim(sqloo, "greater", bwd, KL),
                Claim(sqloo, "greater", bwd, CRASHES),
            ),
        ),
        Finding(
            4,
            "Online beats offline when the judge itself is the reward.",
            tuple(
                Claim(four[o, "online", "gold"], "greater", four[o, "offline", "gold"])
                for o in both
            ),
        ),
        Finding(
            5,
            "Every iteration helps, offline and online, and the gap between the two shrinks.",
            (
                *(
                    Claim(f"{o} {c} round {n + 1}", "greater", f"{o} {c} round {n}")
                    for o, c in rounds
                    for n in (1, 2)
                ),
                Claim(gaps[0], "greater", gaps[1]),
            ),
        ),
        Finding(
            6,
            "With a reward learnt from the preferences, online training hardly improves on SFT: "
            "the learnt reward rises while the judge's falls.",
            (
                *(Claim(arm, "not_more", "sft") for arm in learnt),
                *(Claim(f"{a} at last", "greater", f"{a} at first", LEARNT) for a in learnt),
                *(Claim(f"{a} at first", "greater", f"{a} at last", JUDGE) for a in learnt),
            ),
        ),
        Finding(
            7,
            "Prompts of the evaluation's kind train better than others.",
            (Claim("prompts id", "greater", "prompts ood"),),
        ),
    ]  # fmt: skip


def published(
    table2: pd.DataFrame, table3: pd.DataFrame, table4: pd.DataFrame, base: str
) -> tuple[pd.Series, Contrasts, float]:
    """What the paper's tables say of one base model: means by arm, contrasts, and its margin.

    Table 3 is of the 8B model; table 4 gives no half-widths. The paper tells KL, crashes and what
    happens along training in figures and prose, so its tables say nothing of them.
    """
    arms = table2[table2["base"] == base]
    reward = arms["reward_model"].map({"gt": "gold", "learnt": "learnt"})
    count = arms["K"].map("{:.0f}".format)
    told = arms["loss"] + " " + count + " " + arms["responses"] + " " + reward
    parts = [
        pd.DataFrame(
            {"name": told.where(arms["loss"] != "sft", "sft"), "mean": arms["reward_test"],
             "half": arms["reward_test_ci95"]}
        )
    ]  # fmt: skip
    if base == "llama3-8b":
        parts.append(
            pd.DataFrame(
                {"name": table3["prompts"].map({"lmsys": "prompts id", "synthetic": "prompts ood"}),
                 "mean": table3["reward_test"], "half": table3["reward_test_ci95"]}
            )
        )  # fmt: skip
    later = table4[(table4["base"] == base) & (table4["iteration"] > 0)]
    turn = later["iteration"].astype(str)
    parts.append(
        pd.DataFrame(
            {"name": later["loss"] + " " + later["collection"] + " round " + turn,
             "mean": later["reward_test"], "half": float("nan")}
        )
    )  # fmt: skip
    every = pd.concat(parts).set_index("name")
    means = every["mean"]
    best = max(value for name, value in means.items() if str(name).endswith("offline gold"))
    margin = MARGIN * (best - means["sft"])
    return means, {"reward": from_intervals(means, every["half"])}, margin


def arm_names(runs: pd.DataFrame) -> pd.Series:
    """The name of each run's arm; NaN where the paper has no such arm."""
    reward = runs["reward"].map({"gold": "gold", "explicit": "learnt"})
    count = runs["num_responses"].astype(str)
    return runs["objective"] + " " + count + " " + runs["collection"] + " " + reward


def without_help(runs: pd.DataFrame, choice: str) -> pd.DataFrame:
    """The runs, of arms with a learnt reward only those with `select_checkpoint` = `choice`.

    All of them where none has it.
    """
    learnt = runs["reward"] == "explicit"
    wanted = runs["config.training.select_checkpoint"] == choice
    return runs[~learnt | wanted] if (learnt & wanted).any() else runs


def along_training(runs: pd.DataFrame, curve: pd.DataFrame) -> pd.DataFrame:
    """What became of each run from its first to its last step, whatever checkpoint was chosen.

    Args:
        runs: with id, name and block.
        curve: the rows of curve.parquet.

    Returns:
        A row per run with a curve: name, block, kl (nats, after as many steps as the shortest of
        the runs made), judge and learnt (change from the first to the last point).
    """
    if curve.empty:
        return pd.DataFrame(columns=["name", "block", "kl", "judge", "learnt"])
    curve = curve[curve["id"].isin(runs["id"])]
    by_run = curve.groupby("id", sort=False)
    first, last = by_run.first(), by_run.last()
    equal = curve[curve["step"] <= by_run["step"].max().min()].groupby("id", sort=False).last()
    found = pd.DataFrame({"kl": equal["kl"], "judge": last["judge_reward"] - first["judge_reward"]})
    found["learnt"] = float("nan")
    if "training_reward" in curve:
        found["learnt"] = last["training_reward"] - first["training_reward"]
    known = runs.drop_duplicates("id").set_index("id")[["name", "block"]]
    return known.join(found, how="inner").reset_index(drop=True)


def study(
    reported: pd.DataFrame, every: pd.DataFrame, curve: pd.DataFrame, metric: str
) -> Contrasts:
    """Contrasts of a study's arms.

    Args:
        reported: the runs of its table, with block.
        every: all its runs, those that chose among trials too: any of them may have diverged.
        curve: their curve.parquet.
        metric: judge reward on a split.

    For the end of training, arms whose checkpoint was chosen on valid are followed to the last
    step: the hyper-parameters of those that take the last checkpoint were chosen for a high judge
    reward at just that step.
    """
    runs = reported.assign(name=arm_names(reported)).dropna(subset=["name"])
    of_sft = f"reward_sft/{metric.partition('/')[2]}"
    told = without_help(runs, "last")
    start = told.groupby("block")[of_sft].first()
    rewards = pd.concat(
        [
            told[["name", "block"]].assign(value=told[metric].astype(float)),
            pd.DataFrame({"name": "sft", "block": start.index, "value": start.to_numpy()}),
        ]
    )
    ends = along_training(without_help(runs, "valid"), curve)
    # two arms alone: the KL of others spreads very differently
    online = [arm for arm in ends["name"].unique() if arm.endswith("online gold")]
    every = every.drop_duplicates("id")
    crashed = (every["status"] == "diverged").groupby(arm_names(every)).agg(["sum", "count"])
    counts = {str(arm): (int(s), int(n)) for arm, s, n in crashed.itertuples()}
    return {
        "reward": from_runs(rewards),
        KL: from_runs(ends[ends["name"].isin(online)].rename(columns={"kl": "value"})),
        CRASHES: from_counts(counts),
        LEARNT: from_changes(ends.rename(columns={"learnt": "value"}).dropna(subset=["value"])),
        JUDGE: from_changes(ends.rename(columns={"judge": "value"})),
    }
