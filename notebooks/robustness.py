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
# # Which objective forgives?
#
# The same number of trials per arm, drawn before anything ran. A best trial is what tuning buys; the
# spread from best to worst is what not tuning costs.

# %% tags=["parameters"]
results_dir = "results/reference"  # or a store of your own
sweep = "objectives"

# %%
from ablate.analysis import plots
from ablate.analysis.notebook import draw, open_study, show

view = open_study(results_dir, sweep)
view

# %%
table = view.table(["objective"], metrics=["reward/test"], baseline="dpo")
show(table, view)

# %%
import pandas as pd

from ablate.analysis.caption import name_of

tried = pd.DataFrame(
    [
        {
            "name": name_of(table, e.row, e.col),
            "trial": trial,
            "value": value,
            "chosen": trial == e.tuned.chosen,
        }
        for e in (table.entries.values() if table is not None else [])
        if e.tuned is not None
        for trial, value in e.tuned.tried
    ],
    columns=["name", "trial", "value", "chosen"],
)
draw(lambda t: plots.trials(tried, "reward/valid", plots.arms_of(t)), table)

# %% [markdown]
# Best, median and worst trial on *valid*:

# %%
spread = tried.groupby("name", sort=False)["value"].agg(["max", "median", "min", "count"])
spread.rename(columns={"max": "best", "min": "worst", "count": "trials"}).round(3)
