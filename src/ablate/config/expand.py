"""Expansion of a sweep: from words with alternatives, or a named sweep, to frozen runs."""

import functools
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from omegaconf import OmegaConf

from ablate.config.compose import COMMAND_LINE, CONFIG_NAME, freeze, readable_errors, without_hydra
from ablate.config.levels import level_names
from ablate.config.matching import matched
from ablate.config.overrides import normalize
from ablate.config.run import RunConfig, Seed
from ablate.config.sweep_file import GROUP, Range, SweepFile, check_matches, read_sweep_file
from ablate.config.tuning import draw, ranges_of
from ablate.errors import ConfigError

#: words of a command line that change what the file of a named sweep says
_OF_FILE = ("match", "match_only", "tune")
_SEED = "seed.value="


@dataclass(frozen=True)
class Trial:
    """One choice of the tuned settings, and its runs with the seeds that choose."""

    settings: dict[str, float]
    runs: list[RunConfig]


@dataclass(frozen=True)
class Contest:
    """An arm that is tuned: its trials, and the seeds that the best of them is reported with."""

    by: str
    ranges: dict[str, Range]
    trials: list[Trial]
    seeds: list[int]


@dataclass
class Expansion:
    """The runs of a sweep, in order; equal runs stay.

    labels: per run, what the sweep knows of it that its settings do not say, such as the `match`
    that it stands for; contests carry theirs in `contest_labels`.
    """

    runs: list[RunConfig] = field(default_factory=list)
    labels: list[dict[str, str]] = field(default_factory=list)
    contests: list[Contest] = field(default_factory=list)
    contest_labels: list[dict[str, str]] = field(default_factory=list)

    def at(self, results_dir: str) -> "Expansion":
        """The same with its store named in full."""
        moved = {id(run): run.model_copy(update={"results_dir": results_dir}) for run in self.runs}
        contests = [
            replace(c, trials=[replace(t, runs=[moved[id(r)] for r in t.runs]) for t in c.trials])
            for c in self.contests
        ]
        runs = [moved[id(run)] for run in self.runs]
        return Expansion(runs, self.labels, contests, self.contest_labels)


def expand(loader: Any, arguments: Sequence[str]) -> Expansion:
    """The runs of a sweep, each validated, in the order of the grid.

    `+sweep=NAME` stands for the union of grids in `sweeps/NAME.yaml`; further words apply to all
    of its arms and replace what the file says of the same setting; alternatives multiply it.

    Args:
        loader: Hydra's configuration loader.
        arguments: overrides, normalised or not.

    Raises:
        ConfigError: names what is wrong, with the file or the word.
    """
    own = _own_folders(loader)
    composer = _Composer(loader)
    with readable_errors():
        found = named_sweep(loader, arguments)
        words = [word for word in arguments if not _of_sweep(word, found is not None)]
        if found is None:
            runs = [composer.compose(arm) for arm in _product(loader, normalize(words, own))]
            return Expansion(runs, [{} for _ in runs])
        return _Named(loader, composer, found, words, own).expand()


def named_sweep(loader: Any, arguments: Sequence[str]) -> SweepFile | None:
    """The file of the named sweep on a command line, if there is one.

    Raises:
        ConfigError: two of them, or a file with mistakes.
    """
    names = [word.split("=", 1)[1] for word in arguments if _key(word) == GROUP]
    if len(names) > 1:
        raise ConfigError(f"give one sweep, not {len(names)}: {', '.join(names)}")
    if not names:
        return None
    changes = {}
    for word in arguments:
        if _key(word) != GROUP and _of_sweep(word, True):
            value = yaml.safe_load(word.split("=", 1)[1])
            listed = _key(word) in ("match", "tune.seeds") and not isinstance(value, list)
            if listed:
                value = [yaml.safe_load(part) for part in str(value).split(",")]
            changes[_key(word)] = value
    return read_sweep_file(names[0], _own_folders(loader), changes)


def analysis_words(loader: Any, arguments: Sequence[str]) -> list[str]:
    """`analysis.<key>=<value>` for what the named sweep's file fixes about its table.

    They are frozen with the sweep: a margin chosen before the runs stays what it was.
    """
    found = named_sweep(loader, arguments)
    if found is None:
        return []
    fixed: dict[str, Any] = {}
    if found.analysis is not None:
        plain = found.analysis.model_dump()
        fixed = {key: value for key, value in plain.items() if value is not None}
    if found.tune is not None:
        fixed["choose"] = found.tune.by
    return [f"analysis.{key}={_alternatives(value)}" for key, value in fixed.items()]


class _Named:
    """Expands the file of a named sweep."""

    def __init__(
        self, loader: Any, composer: "_Composer", file: SweepFile, words: list[str], own: list[str]
    ) -> None:
        self.loader, self.composer, self.file, self.own = loader, composer, file, own
        self.seed_words = [word for word in words if _key(word) in ("seed", "seed.value")]
        self.words = [word for word in words if word not in self.seed_words]

    def expand(self) -> Expansion:
        result = Expansion()
        arms = [(arm, self.composer.compose(arm)) for arm in self._arms()]
        sizes = [run.num_responses.k for _, run in arms]
        check_matches(self.file, sizes)
        for arm, run in arms:
            if not self.file.matches:
                self._add(result, arm, run, {})
            for match in self.file.matches:
                more = matched(match, run, min(sizes), max(sizes))
                self._add(result, [*arm, *more], run, {"match": str(match)})
        return result

    def _arms(self) -> Iterable[list[str]]:
        """Words of every arm, without seeds."""
        given = {_key(word) for word in self.words}
        for arm in self.file.arms:
            grid = [f"{k}={_alternatives(v)}" for k, v in arm.items() if k not in given]
            yield from _product(self.loader, normalize([*grid, *self.words], self.own))

    def _add(
        self, result: Expansion, arm: list[str], run: RunConfig, label: dict[str, str]
    ) -> None:
        tune = self.file.tune
        if tune is None:
            for seed in self._seeds() or [run.seed.value]:
                result.runs.append(self.composer.compose([*arm, f"seed.value={seed}"]))
                result.labels.append(label)
            return
        seeds = self._seeds() or [run.seed.value]
        if set(seeds) & set(tune.seeds):
            raise ConfigError(
                f"seeds {', '.join(map(str, sorted(set(seeds) & set(tune.seeds))))} choose the "
                "trials (tune.seeds) and cannot report them: give others"
            )
        ranges = ranges_of(run, tune.ranges, self.own)
        trials = []
        for settings in draw(ranges, tune.trials, tune.draw):
            words = [*arm, *(f"{key}={value:g}" for key, value in settings.items())]
            runs = [self.composer.compose([*words, f"seed.value={s}"]) for s in tune.seeds]
            trials.append(Trial(settings, runs))
            result.runs += runs
            result.labels += [label] * len(runs)
        result.contests.append(Contest(tune.by, ranges, trials, seeds))
        result.contest_labels.append(label)

    def _seeds(self) -> list[int]:
        """Of the command line, or else of the file."""
        if not self.seed_words:
            return self.file.seeds or []
        arms = _product(self.loader, normalize(self.seed_words, self.own))
        return [int(word.split("=", 1)[1]) for arm in arms for word in arm]


def _of_sweep(word: str, named: bool) -> bool:
    """Whether a word speaks of the sweep itself and not of its runs."""
    key = _key(word)
    return key == GROUP or (named and key.split(".")[0] in _OF_FILE)


def _own_folders(loader: Any) -> list[str]:
    """The configuration folders that were named on the command line."""
    return [
        entry.path.removeprefix("file://")
        for entry in loader.get_search_path().get_path()
        if entry.provider == COMMAND_LINE
    ]


def _key(word: str) -> str:
    return word.split("=", 1)[0].lstrip("+")


def _alternatives(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_alternatives(item) for item in value)
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _product(loader: Any, words: Sequence[str]) -> Iterable[list[str]]:
    """Every combination of the alternatives, the last word varying fastest."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    for batch in BasicSweeper.split_arguments(parsed, None):
        yield from (list(arm) for arm in batch)


class _Composer:
    """Composes each set of group choices once; settings are applied to copies, seeds to the result.

    One composition costs about 60 ms, a copy with its settings a tenth of that; a grid over
    hyper-parameters and seeds needs few of the first and one of the second per trial.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        #: a composed configuration as bytes, which are copied faster than the tree
        self.composed: dict[tuple[str, ...], bytes] = {}
        self.frozen: dict[tuple[str, ...], RunConfig] = {}

    def compose(self, arm: list[str]) -> RunConfig:
        choices = tuple(word for word in arm if not _is_setting(word))
        settings = [word for word in arm if _is_setting(word)]
        tree = self._tree(choices)
        seeds = [word for word in settings if word.startswith(_SEED)]
        rest = tuple(word for word in settings if not word.startswith(_SEED))
        followed = b"${seed" in tree or any("$" in word for word in rest)
        if len(seeds) != 1 or not seeds[0][len(_SEED) :].isdigit() or followed:
            return self._freeze(choices, tuple(settings))
        # nothing else in the configuration follows the seed
        run = self._freeze(choices, rest)
        seed = Seed.model_validate({**run.seed.model_dump(), "value": int(seeds[0][len(_SEED) :])})
        return run.model_copy(update={"seed": seed})

    def _tree(self, choices: tuple[str, ...]) -> bytes:
        from hydra.types import RunMode

        if choices not in self.composed:
            config = self.loader.load_configuration(
                config_name=CONFIG_NAME, overrides=list(choices), run_mode=RunMode.RUN
            )
            self.composed[choices] = pickle.dumps(without_hydra(config), pickle.HIGHEST_PROTOCOL)
        return self.composed[choices]

    def _freeze(self, choices: tuple[str, ...], settings: tuple[str, ...]) -> RunConfig:
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra.core.override_parser.overrides_parser import OverridesParser

        key = (*choices, "", *settings)
        if key not in self.frozen:
            config = pickle.loads(self.composed[choices])
            OmegaConf.set_struct(config, True)
            parsed = OverridesParser.create().parse_overrides(list(settings))
            ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
            self.frozen[key] = freeze(config)
        return self.frozen[key]


@functools.cache
def _is_setting(word: str) -> bool:
    """A plain `setting=value`, as opposed to a choice of a level, an addition or a deletion."""
    key = word.split("=", 1)[0]
    return key.replace(".", "").replace("_", "").isalnum() and "." in key and not level_names(key)
