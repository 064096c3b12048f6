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
# # Implicit or explicit reward?
#
# A reward model against the implicit reward of a policy, learnt from equally many labels of the same
# prompts and used by the same objective. A star is a difference after Holm's correction over the table; no sign means *cannot tell*, and the
# power note says what could. [docs/tables.md](../docs/tables.md) explains every sign.

# %% tags=["parameters"]
results_dir = "results/reference"  # or a store of your own
sweep = "implicit_explicit"

# %%
from ablate.analysis import plots
from ablate.analysis.notebook import draw, open_study, show

view = open_study(results_dir, sweep)
view

# %%
table = view.table(
    ["reward", "reward.training.num_labels"],
    ["training.select_checkpoint"],
    metrics=["reward/test", "reward/ood"],
    baseline="explicit 1024",
)
show(table, view)

# %%
draw(lambda t: plots.differences(t, t.metrics[0]), table)

# %% [markdown]
# *valid* chose among the checkpoints that each run kept, by the judge on valid prompts; *last* is what one
# has without a judge. Where both hold the same numbers, the last checkpoint was the best on valid.

# %% [markdown]
# How well each source orders the pool's pairs, and how calibrated it is:

# %%
quality = view.table(
    ["reward", "reward.training.num_labels"],
    ["training.select_checkpoint"],
    metrics=["reward.agreement.accuracy_clean", "reward.agreement.calibration_error"],
)
show(quality, view)

# %% [markdown]
# Does the training reward run ahead of the judge? In standard deviations, since SFT:

# %%
gap = view.table(
    ["reward", "reward.training.num_labels"],
    ["training.select_checkpoint"],
    metrics=["hacking_gap/test"],
)
show(gap, view)
