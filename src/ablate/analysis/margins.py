"""Margins: what counts as no difference, as a number or as a share of the best offline gain."""

from dataclasses import replace

import pandas as pd

from ablate.analysis.table import Question
from ablate.errors import ConfigError

#: share of the best offline gain that counts as no difference where nobody fixed a margin
DEFAULT_SHARE = 0.1
#: metrics that a gain in judge reward has the unit of
_IN_REWARD = ("reward", "reward_gain")


def read_margin(given: str | float | None) -> tuple[float | None, float | None]:
    """A margin as a person gives it: a number and a share, of which at most one is not None.

    Without any, it is the default share.

    Raises:
        ConfigError: neither a positive number nor a percentage.
    """
    if given is None:
        return None, DEFAULT_SHARE
    text = str(given)
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"--margin {text}: a positive number, or a percentage such as 10%")
    return (None, value / 100) if text.endswith("%") else (value, None)


def settle(question: Question, frame: pd.DataFrame, metric: str, same_scale: bool) -> Question:
    """The question with its share of the best offline gain as a number.

    There is none where the metric is not judge reward, the cells have no common scale, or no
    offline cell gained over SFT.

    Args:
        frame: the runs that the table reports, with row and col.
        metric: the table's first.
    """
    if question.margin is not None or question.margin_share is None:
        return replace(question, margin_share=None)
    gain = best_offline_gain(frame, metric) if same_scale else None
    margin = None if gain is None else question.margin_share * gain
    return replace(question, margin=margin, margin_share=None)


def best_offline_gain(frame: pd.DataFrame, metric: str) -> float | None:
    """The largest mean gain in judge reward over SFT of the offline cells; None without any."""
    name, _, split = metric.partition("/")
    needed = (f"reward/{split}", f"reward_sft/{split}")
    if name not in _IN_REWARD or not all(column in frame for column in needed):
        return None
    offline = frame[frame["collection"] == "offline"]
    gain = offline[needed[0]].astype(float) - offline[needed[1]].astype(float)
    best = gain.groupby([offline["row"], offline["col"]]).mean().max()
    return float(best) if best > 0 else None
