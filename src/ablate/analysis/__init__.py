"""Analysis: tables over runs, in which the unit of inference is the run, not the prompt."""

from ablate.analysis.build import at_equal_kl, build
from ablate.analysis.cells import Cell, cells, varied_settings
from ablate.analysis.contrasts import differences
from ablate.analysis.effects import Effects, effects
from ablate.analysis.table import AblationTable, Question

__all__ = [
    "AblationTable",
    "Cell",
    "Effects",
    "Question",
    "at_equal_kl",
    "build",
    "cells",
    "differences",
    "effects",
    "varied_settings",
]
