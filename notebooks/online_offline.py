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
# # Online or offline?
#
# Responses from the SFT policy once, from the policy every few steps, or at every step; the judge
# itself is the reward. The shipped study has the offline and the online arms of `paper`;
# `ablate +sweep=online_offline -m` has every few steps too. A star is a difference after Holm's correction over the table; no sign means *cannot tell*, and the
# power note says what could. [docs/tables.md](../docs/tables.md) explains every sign.

# %% tags=["parameters"]
results_dir = "results/reference"  # or a store of your own
sweep = "paper"  # or online_offline

# %%
from ablate.analysis import plots
from ablate.analysis.notebook import draw, open_study, show

view = open_study(results_dir, sweep, ["reward=gold", "num_responses=4"])
view

# %%
table = view.table(
    ["collection"], ["objective"], metrics=["reward/test", "kl/test"], baseline="offline"
)
show(table, view)

# %%
draw(lambda t: plots.differences(t, t.metrics[0]), table)

# %%
draw(lambda t: plots.frontier(t, "test"), table)

# %%
draw(plots.overoptimisation, table)

# %% [markdown]
# Higher reward is no merit of an arm that went further. At the largest KL that all arms reach:

# %%
from ablate.analysis import at_equal_kl
from ablate.errors import AblateError

equal = None
if table is not None:
    try:
        equal = at_equal_kl(table, "test")
    except AblateError as error:
        view.told.append(str(error))
show(equal, view)
