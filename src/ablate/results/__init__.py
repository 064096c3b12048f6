"""Results: pandas DataFrames over the store, a row per run, per step or per answer."""

from ablate.results.load import load, load_curve, load_eval, load_train

__all__ = ["load", "load_curve", "load_eval", "load_train"]
