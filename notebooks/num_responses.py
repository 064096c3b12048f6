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
# # How many responses per prompt?
#
# More responses are more data and more compute, unless something is held equal: prompts, responses in
# the loss, labels or tokens. A star is a difference after Holm's correction over the table; no sign means *cannot tell*, and the
# power note says what could. [docs/tables.md](../docs/tables.md) explains every sign.

# %% tags=["parameters"]
results_dir = "results/reference"  # or a store of your own
sweep = "num_responses"

# %%
from ablate.analysis import plots
from ablate.analysis.notebook import draw, open_study, show

view = open_study(results_dir, sweep)
view

# %%
table = view.table(["objective", "num_responses"], ["match"], baseline=None)
show(table, view)

# %% [markdown]
# Against two responses, objective by objective:

# %%
two = view.table(["num_responses"], ["objective", "match"], baseline="2")
show(two, view)

# %%
draw(lambda t: plots.differences(t, t.metrics[0]), two)

# %% [markdown]
# What was spent:

# %%
spent = view.table(
    ["objective", "num_responses"], ["match"], metrics=["tokens_trained", "device_seconds"]
)
show(spent, view)
