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
# # Which prompts to train on?
#
# Training prompts of the evaluation's kind (`id`), of another kind (`ood`), or both; judged on both
# kinds. A star is a difference after Holm's correction over the table; no sign means *cannot tell*, and the
# power note says what could. [docs/tables.md](../docs/tables.md) explains every sign.

# %% tags=["parameters"]
results_dir = "results/reference"  # or a store of your own
sweep = "prompt_distribution"

# %%
from ablate.analysis import plots
from ablate.analysis.notebook import draw, open_study, show

view = open_study(results_dir, sweep)
view

# %%
table = view.table(
    ["dataset.train_prompts"], ["objective"], metrics=["reward/test", "reward/ood"], baseline="id"
)
show(table, view)

# %%
draw(lambda t: plots.differences(t, t.metrics[0]), table)
