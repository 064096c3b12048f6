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
# # Does another round help?
#
# The last policy becomes reference and initial policy, and the data are drawn from it anew. A star is a difference after Holm's correction over the table; no sign means *cannot tell*, and the
# power note says what could. [docs/tables.md](../docs/tables.md) explains every sign.

# %% tags=["parameters"]
results_dir = "results/reference"  # or a store of your own
sweep = "iterations"

# %%
from ablate.analysis import plots
from ablate.analysis.notebook import draw, open_study, show

view = open_study(results_dir, sweep, ["collection=iterative"])
view

# %%
table = view.table(
    ["collection.rounds"],
    ["objective"],
    metrics=["reward/test", "kl/test", "kl_reference/test"],
    baseline="1",
)
show(table, view)

# %%
draw(lambda t: plots.differences(t, t.metrics[0]), table)

# %%
draw(plots.learning, table)
