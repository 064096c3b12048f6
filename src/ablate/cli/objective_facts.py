"""What is known of an objective's level, as plain words, read from its files without torch."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from ablate.config.legality import unfed
from ablate.config.levels import conf_dir, level_names, level_path, level_summary, read_level
from ablate.config.objective import Needs, ObjectiveConfig, objective_config
from ablate.config.objective_rules import OWNERS

GROUP = "objective"
#: the hidden file that says what a slot holds where a level says nothing
BASE = "_base"
#: fields that describe a level
WORDS = ("name", "arxiv", "title", "formula", "rpo_reading", "checked", "log_z")
#: where a formula was read, as a level file says it and in words
CHECKED = {
    "paper": "the paper",
    "author_code": "the authors' code",
    "second_implementation": "a second implementation",
    "third_party": "a third party's account",
}
LOG_Z = {
    "cancels": "cancels: the loss does not see it",
    "baseline": "a baseline stands in for it",
    "ignored": "stays in the loss and is taken to be 0, as published",
}
#: needs in words; one that is not here is shown by its name
NEEDS = {
    "reference": "reference log-probs",
    "scores": "scores",
    "order": "order",
    "lengths": "lengths",
    "tokens": "per-token log-probs",
    "extra_rewards": "further rewards",
    "mismatched": "mismatched pairs",
    "behaviour": "log π_old unless fresh",
    "batch": "the whole batch",
}
_COMMENT = re.compile(r"^(?P<field>\w+):\s*(?P<value>[^#]*?)\s+#\s*(?P<comment>.+?)\s*$")


@dataclass(frozen=True)
class Facts:
    """One level: its checked config, the parameters that it sets, and where these come from."""

    config: ObjectiveConfig
    #: the first comment line of its file
    summary: str
    path: Path
    #: parameters that the level sets, in the order of the schema
    defaults: dict[str, Any]
    #: field -> comment beside it in the level's own file
    sources: dict[str, str]
    #: why no run can train the level, which then serves groups made in Python only; None if one can
    blocked: str | None

    @property
    def name(self) -> str:
        """Name of the level, which is that of its file."""
        return self.path.stem

    @property
    def arxiv(self) -> str:
        """arXiv id, or that there is none."""
        return f"arXiv {self.config.arxiv}" if self.config.arxiv else "no arXiv id"

    @property
    def verified(self) -> str:
        """Where the formula was read."""
        return CHECKED.get(self.config.checked, self.config.checked)

    def needs(self) -> list[str]:
        """What must be given, the most telling first; scores include an order."""
        given = self.config.needs
        words = [
            NEEDS.get(field.name, field.name.replace("_", " "))
            for field in fields(Needs)
            if getattr(given, field.name) is True and not (field.name == "order" and given.scores)
        ]
        if given.min_responses != 2:
            words.append(f"K ≥ {given.min_responses}")
        return words or ["nothing"]

    def default_words(self, with_sources: bool) -> list[str]:
        """`beta=0.1` for each parameter that is set, with its source in brackets if wanted."""
        words = []
        for name, value in self.defaults.items():
            source = self.sources.get(name)
            words.append(
                f"{name}={plain(value)}" + (f" ({source})" if source and with_sources else "")
            )
        return words or ["no parameter"]


def all_facts(search: Sequence[str] = ()) -> list[Facts]:
    """Every level, sorted by name. Raises `ConfigError` for a file that is no objective."""
    return [facts(name, search) for name in level_names(GROUP, search)]


def facts(name: str, search: Sequence[str] = ()) -> Facts:
    """One level. Raises `ConfigError` with a close name if there is none."""
    path = level_path(GROUP, name, search)
    values = read_level(GROUP, name, search)
    base = read_level(GROUP, BASE, search)
    config = objective_config(values)
    defaults = {
        # levels that are mixed in have pages of their own
        field: list(values[field]) if field == "mix" else values[field]
        for field in ObjectiveConfig.model_fields
        if field in values
        and field not in WORDS
        and not choices(field)
        and values[field] != base.get(field)
    }
    return Facts(
        config,
        level_summary(GROUP, name, search),
        path,
        defaults,
        _comments(path),
        "\n".join(unfed(config)) or None,
    )


@dataclass(frozen=True)
class NotOffered:
    """An objective whose formula nobody could verify."""

    name: str
    arxiv: str | None
    reason: str


def not_offered(path: Path | None = None) -> list[NotOffered]:
    """What people may look for and will not find, from a list of name, arxiv and reason."""
    path = conf_dir().parent / "objectives" / "not_offered.yaml" if path is None else path
    if not path.is_file():
        return []
    rows = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    return [NotOffered(row["name"], row["arxiv"], row["reason"]) for row in rows]


def choices(field: str) -> list[str]:
    """The values that a slot takes; none for a number, a list or a mapping."""
    annotation = ObjectiveConfig.model_fields[field].annotation
    if annotation is bool:
        return ["true", "false"]
    return [plain(value) for value in _literals(annotation)]


def slots() -> list[str]:
    """The fields that choose among named values."""
    return [name for name in ObjectiveConfig.model_fields if name not in WORDS and choices(name)]


def unused(config: ObjectiveConfig) -> dict[str, str]:
    """Parameters that the level leaves empty -> the choice of a slot that they belong to."""
    found = {}
    for name in ObjectiveConfig.model_fields:
        if name in WORDS or choices(name) or getattr(config, name) is not None:
            continue
        slot, values = OWNERS.get(name, ("", ()))
        found[name] = f"{slot}={' or '.join(values)}" if slot else ""
    return found


def plain(value: Any) -> str:
    """A value as it is typed in a level file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(plain(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _literals(annotation: Any) -> Iterator[Any]:
    """The values of a `Literal`, also inside `… | None`; a mapping's keys are no choices."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        named = [value for member in members for value in _literals(member)]
        yield from named
        if named and len(members) < len(get_args(annotation)):
            yield None


def _comments(path: Path) -> dict[str, str]:
    """field -> what its line in the file says after `#`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    matches = [_COMMENT.match(line) for line in lines]
    return {match["field"]: match["comment"] for match in matches if match}
