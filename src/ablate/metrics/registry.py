"""Every metric by name: what it is called, its unit, which way is better, and how it is computed.

A new metric is one function over the stored table of answers:

    @metric("shouting", title="capitals", unit="%", better=-1, scale=100.0)
    def shouting(table: Table) -> Estimate:
        share = np.array([text.isupper() for text in table["response"]], dtype=float)
        return mean_over_prompts(share, table["prompt_id"])
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ablate.errors import DataError, did_you_mean
from ablate.metrics.summary import Estimate

#: columns of eval.parquet for one run and split, as arrays of equal length
Table = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Metric:
    """A metric. `better`: 1 more is better, -1 less is, 0 neither (a description).

    A value is shown times `scale` with `digits` decimals and `unit`. `compute` is None for what
    the record holds already. `against` asks for the baseline run's columns as `other_<column>`.
    `table` names the file in the run's folder that `compute` reads.
    """

    name: str
    title: str
    unit: str
    better: int
    scale: float
    digits: int
    compute: Callable[[Table], Estimate] | None
    against: bool
    table: str


METRICS: dict[str, Metric] = {}


def _add(item: Metric) -> None:
    if item.name in METRICS:
        raise ValueError(f"there are two metrics '{item.name}'")
    METRICS[item.name] = item


def metric(
    name: str,
    *,
    title: str,
    unit: str = "",
    better: int = 0,
    scale: float = 1.0,
    digits: int = 3,
    against: bool = False,
    table: str = "eval.parquet",
) -> Callable[[Callable[[Table], Estimate]], Callable[[Table], Estimate]]:
    """Registers a function over a run's table of one split as the metric `name`."""

    def register(function: Callable[[Table], Estimate]) -> Callable[[Table], Estimate]:
        _add(Metric(name, title, unit, better, scale, digits, function, against, table))
        return function

    return register


def stored(
    name: str, title: str, unit: str = "", better: int = 0, scale: float = 1.0, digits: int = 3
) -> None:
    """Registers a metric that is a column of `results.load` already."""
    _add(Metric(name, title, unit, better, scale, digits, None, False, ""))


stored("reward", "judge reward", better=1)
stored("reward_at_kl", "judge reward at equal KL", better=1)
stored("reward_sft", "judge reward of SFT")
stored("win_rate", "win rate against SFT", "%", better=1, scale=100.0, digits=1)
stored("kl", "KL to SFT", "nats", digits=2)
stored("kl_reference", "KL to reference", "nats", digits=2)
stored("length", "length", "tokens", digits=1)
stored("truncated", "truncated", "%", scale=100.0, digits=1)
stored("train_reward", "training reward")
stored("train_reward_sft", "training reward of SFT")
for _name, _title in (("accuracy", "reward accuracy, labels"),
                      ("accuracy_clean", "reward accuracy, true order")):  # fmt: skip
    stored(f"reward.agreement.{_name}", _title, "%", better=1, scale=100.0, digits=1)
stored("reward.agreement.calibration_error", "reward calibration error", "%", -1, 100.0, 1)
stored("tokens_trained", "tokens trained", "tokens", digits=0)
stored("tokens_generated", "tokens generated", "tokens", digits=0)
stored("device_seconds", "device time", "s", better=-1, digits=1)

#: metrics of a run as a whole, which no split divides
WHOLE_RUN = ("tokens_trained", "tokens_generated", "device_seconds")


def describe(column: str) -> Metric:
    """The metric of a column such as `reward/test`; a plain one where none describes it."""
    name = column.split("/")[0]
    if name in METRICS:
        return METRICS[name]
    return Metric(name, name, "", 0, 1.0, 3, None, False, "")


def unknown(given: str, known: Iterable[str]) -> DataError:
    """The error that names the closest metrics, then all: each name once, and the splits once."""
    names = sorted(set(known))
    whole = [name for name in names if "/" not in name]
    bare = list(dict.fromkeys(name.partition("/")[0] for name in names if "/" in name))
    splits = ", ".join(sorted({name.partition("/")[2] for name in names if "/" in name}))
    hint = did_you_mean(given, names if "/" in given else [*bare, *whole], most=3, cutoff=0.5)
    lines = [f"there is no metric '{given}'.{hint}"]
    told = f"metrics with a split, such as reward/test (splits: {splits})"
    lines.append(f"{told}: {', '.join(bare)}")
    short = [name for name in whole if "." not in name]
    lines += [f"of a whole run: {', '.join(short)}"] if short else []
    dotted = _families(set(whole) - set(short))
    lines += [f"of its training reward: {'; '.join(dotted)}"] if dotted else []
    return DataError("\n".join(lines))


def _families(names: Iterable[str]) -> list[str]:
    """Dotted names by what stands before their last part: `reward.fitted.(mean, scale)`."""
    members: dict[str, list[str]] = {}
    for name in sorted(names):
        family, _, last = name.rpartition(".")
        members.setdefault(family, []).append(last)
    #: held-out prompts of two kinds, or several learnt rewards, say the same of themselves
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for family, found in members.items():
        parent, _, own = family.rpartition(".")
        alike.setdefault((parent, tuple(found)), []).append(own)
    told = []
    for (parent, found_last), owners in alike.items():
        owner = owners[0] if len(owners) == 1 else f"({', '.join(owners)})"
        path = f"{parent}.{owner}" if parent else owner
        last = ", ".join(found_last)
        told.append(f"{path}.({last})" if len(found_last) > 1 else f"{path}.{last}")
    return told
