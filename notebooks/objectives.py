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
# # Which objective?
#
# Every objective on the same SFT policy, responses, labels and judge, each tuned with equal trials on
# *valid* and reported on *test* with other seeds. A star is a difference after Holm's correction over the table; no sign means *cannot tell*, and the
# power note says what could. [docs/tables.md](../docs/tables.md) explains every sign.

# %% tags=["parameters"]
results_dir = "results/reference"  # or a store of your own
sweep = "objectives"

# %%
from ablate.analysis import plots
from ablate.analysis.notebook import draw, open_study, show

view = open_study(results_dir, sweep)
view

# %%
table = view.table(["objective"], metrics=["reward/test", "reward/ood"], baseline="dpo")
show(table, view)

# %% [markdown]
# Win rates, which are not tested beside the rewards that they come from:

# %%
show(view.table(["objective"], metrics=["win_rate/test", "win_rate_lc/test"]), view)

# %%
draw(lambda t: plots.differences(t, t.metrics[0]), table)

# %% [markdown]
# What the same reward costs in KL to the SFT policy:

# %%
draw(lambda t: plots.frontier(t, "test"), table)

# %% [markdown]
# Three accuracies that are often taken for one another, and likelihood displacement: the share of
# chosen responses that lost probability. A policy can win without ranking the pairs it was trained on.

# %%
pairs = view.table(
    ["objective"],
    metrics=[
        "ranking_accuracy/test",
        "ranking_accuracy_ln/test",
        "implicit_reward_accuracy/test",
        "chosen_fell/train",
    ],
    baseline="dpo",
)
show(pairs, view)
