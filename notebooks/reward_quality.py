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
# # How good must a learnt reward be?
#
# More labels make a better reward model; optimisation finds its faults. The last checkpoint is what
# one gets without a judge to stop by. The shipped study has one number of labels (the online arms of
# `paper`); `ablate +sweep=reward_quality -m` has three. A star is a difference after Holm's correction over the table; no sign means *cannot tell*, and the
# power note says what could. [docs/tables.md](../docs/tables.md) explains every sign.

# %% tags=["parameters"]
results_dir = "results/reference"  # or a store of your own
sweep = "paper"  # or reward_quality

# %%
from ablate.analysis import plots
from ablate.analysis.notebook import draw, open_study, show

view = open_study(results_dir, sweep, ["collection=online"])
view

# %%
rows = ["objective", "reward", "reward.training.num_labels", "training.select_checkpoint"]
table = view.table(rows, metrics=["reward/test", "kl/test"], baseline="rpo_bwd gold valid")
show(table, view)

# %%
draw(plots.overoptimisation, table)

# %% [markdown]
# The gap between training reward and judge since SFT (in their standard deviations), and how well the
# training reward still agrees with the judge on the policy's own answers:

# %%
gap = view.table(
    rows,
    metrics=["hacking_gap/test", "reward_correlation/test", "reward.agreement.accuracy_clean"],
)
show(gap, view)
