"""Analysis: tables over runs, in which the unit of inference is the run, not the prompt."""

from ablate.analysis.cells import Cell, cells, varied_settings

__all__ = ["Cell", "cells", "varied_settings"]
