"""Metrics: NumPy functions over stored answers. The unit of resampling is the prompt."""

from ablate.metrics.summary import Estimate, mean_over_prompts, summarize, win_rate

__all__ = ["Estimate", "mean_over_prompts", "summarize", "win_rate"]
