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
# judged twice: on the paper's own intervals, and on ours. A finding is a conjunction of claims. A claim
# of *more* holds if an interval lies above 0; a claim of *no difference* holds if the interval lies
# within a margin, never because a test found nothing. The intervals of a finding's claims hold at once
# with 95 %. The worlds and models here are tiny: what does not hold here may hold there, and the
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

from ablate.analysis import plots
from ablate.analysis.findings import (
    from_intervals,
    from_runs,
    judge,
    paper_findings,
    verdict,
)
from ablate.analysis.notebook import draw, open_study, show

folder = Path(paper_dir) if Path(paper_dir).is_dir() else Path("..") / paper_dir
table2, table3, table4 = (pd.read_csv(folder / f"table{n}.csv") for n in (2, 3, 4))
view = open_study(results_dir, sweep)
view

# %% [markdown]
# ## Table 2: the paper, 8B (mean judge reward and win rate on its test prompts, 95 % half-widths over three runs)

# %%
small = table2[table2["base"] == "llama3-8b"]
small[
    [
        "loss",
        "K",
        "responses",
        "reward_model",
        "reward_test",
        "reward_test_ci95",
        "win_test",
        "win_test_ci95",
    ]
].reset_index(drop=True)

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
# Of arms with a learnt reward, those whose checkpoint was not chosen by the judge are taken where
# there are any: the judge would otherwise help the arm that it is meant to try.


# %%
def arms_of(frame):
    """name -> run means of the paper's arms."""
    reward = frame["reward"].map({"gold": "gold", "explicit": "learnt"})
    named = frame.assign(
        name=frame["objective"]
        + " "
        + frame["num_responses"].astype(str)
        + " "
        + frame["collection"]
        + " "
        + reward
    ).dropna(subset=["name"])
    last = (
        named.get("config.training.select_checkpoint", pd.Series("", index=named.index)) == "last"
    )
    learnt = named["reward"] == "explicit"
    return named[~learnt | last] if (learnt & last).any() else named


def runs_of(made, name):
    """The chosen runs of a table with a name per arm, as `from_runs` wants them."""
    if made is None:
        return pd.DataFrame(columns=["name", "block", "value"])
    runs = name(made.runs)
    runs = runs.assign(value=runs[metric].astype(float))
    return runs[["name", "block", "value", f"reward_sft/{metric.partition('/')[2]}"]]


ours = runs_of(table, arms_of)
if len(ours):
    start = ours.groupby("block")[ours.columns[-1]].first()
    sft = pd.DataFrame({"name": "sft", "block": start.index, "value": start.to_numpy()})
    ours = pd.concat([ours, sft])
known = table is not None and table.question.margin is not None
margin = table.question.margin if known else float("nan")
share = table.margin_share if known else None
print(
    f"margin: {margin:.3f}"
    + (
        " (fixed in the sweep file)"
        if share is None
        else f" ({100 * share:g} % of the best offline gain, read off these runs)"
    )
)
ours.groupby("name", sort=False)["value"].agg(["mean", "std", "count"]).round(3)

# %% [markdown]
# The paper's arms by the same names. Its half-widths are taken as 1.96 standard errors, and its
# margin is 10 % of its best offline gain over SFT.

# %%
response = small["reward_model"].map({"gt": "gold", "learnt": "learnt"})
name = small["loss"].where(
    small["loss"] == "sft",
    small["loss"]
    + " "
    + small["K"].map("{:.0f}".format)
    + " "
    + small["responses"]
    + " "
    + response,
)
means = pd.Series(small["reward_test"].to_numpy(), index=name)
halves = pd.Series(small["reward_test_ci95"].to_numpy(), index=name)
three = pd.Series(table3["reward_test"].to_numpy(), index=["prompts id", "prompts ood"])
three_halves = pd.Series(table3["reward_test_ci95"].to_numpy(), index=three.index)
paper = from_intervals(pd.concat([means, three]), pd.concat([halves, three_halves]))
best = means[[n for n in means.index if " offline " in n]].max()
paper_margin = 0.1 * (best - means["sft"])
print(f"the paper's margin: {paper_margin:.3f}")

# %% [markdown]
# Rounds and prompt distributions come from sweeps of their own.


# %%
def other(sweep_name, rows, name):
    """A contrast over the arms of another sweep, or one that knows no arm."""
    found = open_study(results_dir, sweep_name)
    if any("no sweep" in line for line in found.told):
        return lambda first, second: None
    made = found.table(rows)
    runs = runs_of(made, name)
    return from_runs(runs) if len(runs) else (lambda first, second: None)


by_round = other(
    iterations,
    ["objective", "collection.rounds"],
    lambda runs: runs.assign(
        name=runs["objective"] + " offline round " + runs["config.collection.rounds"].astype(str)
    ),
)
by_prompts = other(
    prompts,
    ["objective", "dataset.train_prompts"],
    lambda runs: runs[runs["objective"] == "dpo"].assign(
        name=lambda dpo: "prompts " + dpo["config.dataset.train_prompts"].astype(str)
    ),
)
by_arm = from_runs(ours) if len(ours) else (lambda first, second: None)

# %% [markdown]
# ## The seven findings

# %%
here, there, details = [], [], []
for finding in paper_findings():
    contrast = {5: by_round, 7: by_prompts}.get(finding.number, by_arm)
    mine, theirs = judge(finding, contrast, margin), judge(finding, paper, paper_margin)
    here.append(verdict(mine))
    there.append(verdict(theirs))
    details += [
        mine.assign(finding=finding.number, whose="ours"),
        theirs.assign(finding=finding.number, whose="the paper's intervals"),
    ]
summary = pd.DataFrame(
    {
        "finding": [finding.told for finding in paper_findings()],
        "the paper's own intervals": there,
        "this study": here,
    },
    index=[finding.number for finding in paper_findings()],
)
with pd.option_context("display.max_colwidth", None):
    display(summary)  # noqa: F821

# %% [markdown]
# Claim by claim, with the interval that says so. Finding 2 is the one where the paper's own table
# disputes its prose: RPO-bwd with four responses lies above that with two by more than its intervals
# explain. Table 4 gives no intervals, so finding 5 cannot be judged on the paper.

# %%
claims = pd.concat(details)[["finding", "whose", "claim", "difference", "low", "high", "verdict"]]
with pd.option_context("display.max_rows", None, "display.max_colwidth", None):
    display(claims.round(3).reset_index(drop=True))  # noqa: F821
