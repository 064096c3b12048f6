"""A frozen sweep of one run, for tests of the store."""

from ablate.config.compose import compose
from ablate.config.expand import Expansion
from ablate.launch.sweep import freeze, prepare
from ablate.stages.graph import RunPlan
from ablate.store.layout import Layout
from smallrun import SMALL


def frozen(layout: Layout) -> RunPlan:
    """The plan of the run that the sweep holds."""
    sweep = prepare(Expansion([compose([*SMALL, f"results_dir={layout.root}"])], [{}]))
    freeze(sweep, ["test"], "local", {"workers": 1, "max_restarts": 0})
    (planned,) = sweep.plans.values()
    return planned
