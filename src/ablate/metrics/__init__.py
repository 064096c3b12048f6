"""Metrics: NumPy functions over stored answers. The unit of resampling is the prompt."""

from ablate.metrics import answers, pairs
from ablate.metrics.pairs import PAIR_SPLITS, PAIRS, summarize_pairs
from ablate.metrics.registry import METRICS, Metric, Table, describe, metric
from ablate.metrics.summary import Estimate, mean_over_prompts, summarize, win_rate

__all__ = [
    "METRICS",
    "PAIRS",
    "PAIR_SPLITS",
    "Estimate",
    "Metric",
    "Table",
    "answers",
    "describe",
    "mean_over_prompts",
    "metric",
    "pairs",
    "summarize",
    "summarize_pairs",
    "win_rate",
]
