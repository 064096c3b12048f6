"""A named sweep as its file says it: arms, seeds, what a K study matches, what is tuned."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from ablate.config.base import Node, explain
from ablate.config.levels import read_level
from ablate.errors import ConfigError

GROUP = "sweep"

#: what stays equal between arms of different K
Match = Literal["prompts", "responses", "labels", "tokens"]
MATCHES: tuple[Match, ...] = ("prompts", "responses", "labels", "tokens")

#: the smallest and the largest value of a setting that is drawn log-uniformly
Range = tuple[PositiveFloat, PositiveFloat]


class Tune(Node):
    """The first phase: every arm gets the same number of trials, judged on valid prompts.

    `seeds` are spent on the choice; the second phase reports with others. `draw` keys the draws.
    `ranges` replaces those of the world (`conf/tuning/<dataset>.yaml`), setting by setting.
    """

    trials: PositiveInt
    seeds: list[NonNegativeInt] = Field(min_length=1)
    by: str = Field(pattern=r"^[a-z_]+/valid$")
    draw: NonNegativeInt
    ranges: dict[str, Range]


class Analysis(Node):
    """What the sweep fixes, before it runs, about the table that is made of it afterwards."""

    rows: str | list[str] | None
    cols: str | list[str] | None
    metrics: str | list[str] | None
    baseline: str | None
    margin: PositiveFloat | None


class SweepFile(Node):
    """`sweeps/NAME.yaml`: `arms` is a list of grids {factor or setting: level or levels}.

    `match` says what stays equal where K varies, at least two things, since each alone favours one
    side. `match_only` stands in its place where a file means one alone, and says why.
    """

    arms: list[dict[str, Any]] = Field(min_length=1)
    seeds: list[NonNegativeInt] | None
    match: list[Match]
    match_only: Match | None
    tune: Tune | None
    analysis: Analysis | None

    @property
    def matches(self) -> list[Match]:
        """What the arms are matched by, one after the other."""
        return self.match if self.match_only is None else [self.match_only]


#: what a file may leave out, and what that means
_LEFT_OUT: dict[str, Any] = {
    "seeds": None, "match": [], "match_only": None, "tune": None, "analysis": None,
}  # fmt: skip
_TUNE_LEFT_OUT: dict[str, Any] = {"seeds": [1000], "by": "reward/valid", "draw": 0, "ranges": {}}


def read_sweep_file(name: str, search: Sequence[str], changes: dict[str, Any]) -> SweepFile:
    """The validated file of a named sweep.

    Args:
        search: further configuration folders.
        changes: words of the command line that replace what the file says: `seeds`, `match` or
            `match_only`, `tune` (false: no tuning) and `tune.<key>`.

    Raises:
        ConfigError: names every mistake in the file.
    """
    content = {**_LEFT_OUT, **read_level(GROUP, name, search)}
    tune = content["tune"]
    for key in {"match", "match_only"} & changes.keys():
        # the one replaces the other
        content |= {"match": [], "match_only": None, key: changes[key]}
    for key, value in changes.items():
        if key.startswith("tune."):
            if tune is None:
                raise ConfigError(f"{key}={value}: sweep {name} tunes nothing")
            tune = {**tune, key.removeprefix("tune."): value}
        elif key != "tune":
            content[key] = value
    if changes.get("tune") is False:
        tune = None
    content["tune"] = None if tune is None else {**_TUNE_LEFT_OUT, **tune}
    if content["analysis"] is not None:
        content["analysis"] = dict.fromkeys(Analysis.model_fields) | content["analysis"]
    try:
        found = SweepFile.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"sweep {name}: {explain(error)}") from None
    _check(name, found)
    return found


def _check(name: str, found: SweepFile) -> None:
    if found.match and found.match_only is not None:
        raise ConfigError(f"sweep {name}: match and match_only exclude each other")
    if len(set(found.match)) < len(found.match):
        raise ConfigError(f"sweep {name}: match names one thing twice")
    if found.seeds is not None and len(set(found.seeds)) < len(found.seeds):
        raise ConfigError(f"sweep {name}: seeds names one seed twice")
    if found.tune is None:
        return
    both = sorted(set(found.tune.seeds) & set(found.seeds or [0]))
    if both:
        raise ConfigError(
            f"sweep {name}: seed {both[0]} would choose the trials and report them; give "
            "tune.seeds of their own"
        )
    for setting, (low, high) in found.tune.ranges.items():
        if low > high:
            raise ConfigError(f"sweep {name}: tune.ranges.{setting}: {low} is above {high}")


def check_matches(found: SweepFile, sizes: Iterable[int]) -> None:
    """Refuses a sweep in which K varies and that does not say, of at least two, what stays equal.

    Args:
        sizes: K of all arms, command line included.

    Raises:
        ConfigError: says what to write.
    """
    varied = sorted(set(sizes))
    if len(varied) < 2 or found.match_only is not None or len(found.match) > 1:
        return
    told = f"only {found.match[0]} as what stays equal" if found.match else "nothing as equal"
    raise ConfigError(
        f"num_responses takes the values {', '.join(map(str, varied))}, so more responses are also "
        f"more data or more compute, and the sweep names {told}. Name at least two of "
        f"{', '.join(MATCHES)}, such as match: [prompts, responses]; where one alone is meant, "
        "match_only: prompts"
    )
