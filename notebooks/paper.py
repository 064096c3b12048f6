# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The paper beside this study
#
# Tables 2 to 4 of *Reward-aware Preference Optimization*
# ([arXiv 2502.00203](https://arxiv.org/abs/2502.00203)) next to ours, and its seven findings, each
# judged on the intervals of the paper's 8B model and on ours. Its 70B model ran once, without
# intervals: for that one stands only whether the numbers agree. A finding is a conjunction of claims. A
# claim of *more* holds if an interval lies above 0; a claim of *no difference* holds if the interval
# lies within a margin, never because a test found nothing. The intervals of a finding's claims hold at
# once with 95 %. The worlds and models here are tiny: what does not hold here may hold there, and the
# other way round.

# %% tags=["parameters"]
results_dir = "results/reference"  # or a store of your own
sweep = "paper"
iterations = "iterations"
prompts = "prompt_distribution"
paper_dir = "results/reference/paper"
metric = "reward/test"

# %%
from pathlib import Path

import pandas as pd
from IPython.display import display

from ablate.analysis import paper, plots
from ablate.analysis.findings import from_intervals, from_runs, judge, points, verdict
from ablate.analysis.notebook import draw, open_study, show
from ablate.results.tables import CURVE, read_tables

folder = Path(paper_dir) if Path(paper_dir).is_dir() else Path("..") / paper_dir
table2, table3, table4 = (pd.read_csv(folder / f"table{n}.csv") for n in (2, 3, 4))
view = open_study(results_dir, sweep)
view

# %% [markdown]
# ## Table 2: the paper (mean judge reward and win rate on its test prompts)
#
# 8B with 95 % half-widths over three runs; 70B ran once.

# %%
with pd.option_context("display.max_rows", None):
    shown = table2[[c for c in table2 if "alpacaeval" not in c]].astype(object)
    display(shown.where(shown.notna(), ""))

# %% [markdown]
# ## Table 2: this study

# %%
table = view.table(
    ["objective", "num_responses", "collection", "reward", "training.select_checkpoint"],
    metrics=["reward/test", "win_rate/test", "kl/test"],
)
show(table, view)

# %%
draw(lambda t: plots.frontier(t, "test"), table)

# %%
draw(plots.overoptimisation, table)

# %% [markdown]
# ## Tables 3 and 4: the paper

# %%
table3

# %%
table4

# %% [markdown]
# ## The arms by the names that the findings use
#
# Of arms with a learnt reward, those are judged that report their last checkpoint, where there are
# any: choosing one on valid is help by the judge, which is what such an arm has to do without. They
# have that help all the same: **their hyper-parameters were chosen by the judge on valid.** Training
# settings under which a learnt reward leads astray were thus thrown out. A *does not hold* of finding 6
# rests on that choice: it says that online training with a learnt reward can improve on SFT where a
# judge picks the settings, not that it would without one.
#
# Judge and learnt reward *along training* are followed to the last step in the arms whose checkpoint
# was chosen on valid: nothing was chosen by what the judge says of their last step.


# %%
def named(made, name):
    """The runs of a table with a name per arm, as `from_runs` wants them."""
    runs = name(made.runs)
    return runs.assign(value=runs[metric].astype(float))[["name", "block", "value"]]


contrasts, margin, source = {}, float("nan"), "no runs"
if table is not None:
    points_along = read_tables(table.runs, CURVE)
    contrasts = paper.study(table.runs, view.frame, points_along, metric)
    ours = named(table, lambda runs: runs.assign(name=paper.arm_names(runs))).dropna()
    share = table.margin_share
    margin = table.question.margin if table.question.margin is not None else float("nan")
    source = "fixed in the sweep file"
    if share is not None:
        source = f"{100 * share:g} % of the best offline gain, read off these runs"
print(f"our margin: {margin:.3f} ({source})")
tables = {
    base: paper.published(table2, table3, table4, base) for base in ("llama3-8b", "llama3-70b")
}
for base, (_, _, limit) in tables.items():
    print(f"the paper's margin, {base}: {limit:.3f} (10 % of its best offline gain)")

# %% [markdown]
# What training does to judge and learnt reward from its first to its last step, and how far the learnt
# reward's gain leads the judge's at the reported checkpoint (in standard deviations of SFT's answers):

# %%
if table is not None:
    runs = table.runs[table.runs["reward"] == "explicit"]
    told = paper.arm_names(runs) + ", checkpoint " + runs["config.training.select_checkpoint"]
    along = paper.along_training(runs.assign(name=told), points_along)
    display(along.groupby("name")[["learnt", "judge", "kl"]].agg(["mean", "std"]).round(3))
online = open_study(results_dir, sweep, ["collection=online"])
gaps = online.table(
    ["objective", "reward", "training.select_checkpoint"], metrics=["hacking_gap/test"]
)
show(gaps, online)

# %% [markdown]
# Rounds and prompt distributions come from sweeps of their own. A study of rounds without online arms
# cannot speak of the gap between online and offline.


# %%
def other(sweep_name, rows, name):
    """Contrasts over the arms of another sweep, or none."""
    found = open_study(results_dir, sweep_name)
    if any("no sweep" in line for line in found.told):
        return {}
    made = found.table(rows)
    return {} if made is None else {"reward": from_runs(named(made, name))}


def in_rounds(runs):
    """`objective collection round N`, whether responses come from the policy in training or not."""
    kind = runs["config.collection.refresh_every"].isna().map({True: "offline", False: "online"})
    rounds = runs["config.collection.rounds"].astype(str)
    return runs.assign(name=runs["objective"] + " " + kind + " round " + rounds)


def by_prompts(runs):
    """`prompts KIND`, of DPO alone, as in the paper."""
    dpo = runs[runs["objective"] == "dpo"]
    return dpo.assign(name="prompts " + dpo["config.dataset.train_prompts"].astype(str))


apart = {
    5: other(iterations, ["objective", "collection.rounds"], in_rounds),
    7: other(prompts, ["objective", "dataset.train_prompts"], by_prompts),
}

# %% [markdown]
# ## The seven findings

# %%
columns = {"the paper, 8B": [], "the paper, 70B (one run)": [], "this study": []}
details = []
for finding in paper.paper_findings():
    mine = judge(finding, apart.get(finding.number, contrasts), margin)
    (_, small, small_margin), (_, large, large_margin) = tables.values()
    theirs = judge(finding, small, small_margin, "its tables")
    for column, word in zip(
        columns, (verdict(theirs), points(finding, large, large_margin), verdict(mine)), strict=True
    ):
        columns[column].append(word)
    details += [
        mine.assign(finding=finding.number, whose="ours"),
        theirs.assign(finding=finding.number, whose="the paper, 8B"),
    ]
    if points(finding, large, large_margin) != "not in its tables":
        shown = judge(finding, large, large_margin, "its tables")
        details.append(shown.assign(finding=finding.number, whose="the paper, 70B"))
told = [finding.told for finding in paper.paper_findings()]
summary = pd.DataFrame(
    {"finding": told, **columns}, index=[finding.number for finding in paper.paper_findings()]
)
with pd.option_context("display.max_colwidth", None):
    display(summary)

# %% [markdown]
# *Holds as far as it was measured*: every claim that could be judged holds; the others were not
# measured. The paper tells KL, crashed runs and what happens along training in figures and prose, and
# gives no intervals for its rounds (table 4).
#
# ## Where the paper's own intervals dispute its prose
#
# "No gain from four responses" (finding 2), "hardly improves on SFT" (6), and "RPO-bwd beats RLOO" (3),
# which alpacaeval, its evaluation out of distribution, does not show. There, too, the prompts of the
# other kind train better (7: table 3, 5.635 against 5.600). Differences in its 8B model, in their
# standard errors:

# %%
small = table2[table2["base"] == "llama3-8b"].reset_index(drop=True)
small.index = paper.published(table2, table3, table4, "llama3-8b")[0].index[: len(small)]
disputes = []
for number, first, second, where in (
    (2, "rpo_bwd 4 offline gold", "rpo_bwd 2 offline gold", "test"),
    (6, "rpo_bwd 4 online learnt", "sft", "test"),
    (6, "rpo_sqloo 4 online learnt", "sft", "test"),
    (3, "rpo_bwd 4 online gold", "rpo_sqloo 4 online gold", "alpacaeval"),
):
    contrast = from_intervals(small[f"reward_{where}"], small[f"reward_{where}_ci95"])
    gap, se, _ = contrast({first: 1.0, second: -1.0})
    line = {"finding": number, "first": first, "second": second, "prompts": where}
    disputes.append(
        {**line, "difference": gap, "95 %, ±": 1.96 * se, "standard errors": round(gap / se, 1)}
    )
pd.DataFrame(disputes).round(3)

# %% [markdown]
# ## Claim by claim, with the interval that says so

# %%
claims = pd.concat(details)[["finding", "whose", "claim", "difference", "low", "high", "verdict"]]
with pd.option_context("display.max_rows", None, "display.max_colwidth", None):
    display(claims.round(3).reset_index(drop=True))
