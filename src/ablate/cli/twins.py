"""What tells runs of one name apart: what they stand for in their study, and settings."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from ablate.launch.status import RunStatus
from ablate.store import records
from ablate.store.files import read_json
from ablate.store.layout import Layout
from ablate.store.sweeps import FrozenSweep

#: where a run is carried out is no difference between runs
ELSEWHERE = ("runtime", "tracker", "results_dir", "force", "keep")
#: settings that are told of a run; more would not be read
MOST = 3

Config = dict[str, Any]


def differences(
    sweep: FrozenSweep,
    statuses: Sequence[RunStatus],
    names: set[str],
    copied: dict[str, Config],
) -> dict[str, str]:
    """Identity → what a run has that others of its name have not; only where a name is shared.

    Args:
        names: those that matter.
        copied: settings of runs that are there in a compacted copy alone.
    """
    families: dict[str, list[str]] = defaultdict(list)
    for status in (status for status in statuses if status.name in names):
        families[status.name].append(status.identity)
    labels = dict(sweep.labels)
    labels |= {contest.promise(seed): contest.labels for contest, seed in sweep.open()}
    told: dict[str, str] = {}
    for family in families.values():
        if len(family) == 1:
            continue
        words = {identity: _labels(labels.get(identity, [])) for identity in family}
        if len(set(words.values())) == 1:
            words = dict.fromkeys(family, "")
        alike: dict[str, list[str]] = defaultdict(list)
        for identity in family:
            alike[words[identity]].append(identity)
        for word, twins in alike.items():
            settings = _settings(twins, lambda one: _config(sweep, one, copied))
            for identity in twins:
                told[identity] = "  ".join(part for part in (word, settings[identity]) if part)
    return {identity: text for identity, text in told.items() if text}


def _labels(labels: Sequence[dict[str, str]]) -> str:
    """`match=prompts, responses`: all that one run stands for."""
    values: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        for name, value in label.items():
            values[name].append(value)
    return "  ".join(f"{name}={', '.join(dict.fromkeys(found))}" for name, found in values.items())


def _settings(twins: Sequence[str], config: Callable[[str], Config]) -> dict[str, str]:
    """The settings in which twins differ, of each with its values."""
    if len(twins) == 1:
        return {twins[0]: ""}
    flat = {identity: dict(records.flat(config(identity))) for identity in twins}
    keys = list(dict.fromkeys(key for found in flat.values() for key in found))
    apart = [key for key in keys if len({str(found.get(key)) for found in flat.values()}) > 1]
    # another level of a factor is told by its name alone
    levels = [key.removesuffix(".name") for key in apart if key.endswith(".name")]
    apart = [
        key
        for key in apart
        if not key.startswith(ELSEWHERE)
        and not any(key.startswith(f"{level}.") and key != f"{level}.name" for level in levels)
    ]
    for most in range(MOST, len(apart) + 1):
        shown = {i: [_value(found.get(key)) for key in apart[:most]] for i, found in flat.items()}
        if len({tuple(values) for values in shown.values()}) == len(twins):
            break
    else:
        most = len(apart)
    more = f"  and {len(apart) - most} more" if len(apart) > most else ""
    return {
        identity: "  ".join(
            f"{key.removesuffix('.name')}={_value(found.get(key))}" for key in apart[:most]
        ) + more
        for identity, found in flat.items()
    }  # fmt: skip


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _config(sweep: FrozenSweep, identity: str, copied: dict[str, Config]) -> Config:
    """Frozen settings; of a run whose trial is not chosen yet, those that are not tuned."""
    for contest, seed in sweep.open():
        if contest.promise(seed) == identity:
            known = _config(sweep, contest.runs[0], copied)
            tuned = contest.trials[0].settings
            return {key: value for key, value in records.flat(known) if key not in tuned}
    path = sweep.frozen(identity)
    if path.exists():
        return dict(read_json(path))
    if identity in copied:
        return copied[identity]
    stored = records.latest(Layout(sweep.folder.parent.parent), identity)
    return {} if stored is None else dict(stored.data["config"])
