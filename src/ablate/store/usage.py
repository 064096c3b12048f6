"""What the stages of a store weigh, which runs need them, and the removal of those none needs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ablate.store import claims, files, records
from ablate.store.layout import Layout

#: part of the name of a stage that was set aside because it did not match its checksums
DAMAGED = ".damaged-"


@dataclass
class Usage:
    """One published stage."""

    kind: str
    identity: str
    path: Path
    bytes: int
    #: identities of the runs whose records name it
    users: set[str] = field(default_factory=set)

    @property
    def damaged(self) -> bool:
        """Set aside: computed again elsewhere, if it was needed."""
        return DAMAGED in self.identity


def usage(layout: Layout) -> list[Usage]:
    """All stages of a store, largest first."""
    users: dict[str, set[str]] = {}
    for record in records.records(layout):
        for stage in record.data["stages"]:
            users.setdefault(stage["id"], set()).add(record.identity)
    found = []
    if layout.stages.is_dir():
        for kind in sorted(layout.stages.iterdir()):
            for path in kind.iterdir():
                owners = users.get(path.name, set())
                found.append(Usage(kind.name, path.name, path, weight(path), owners))
    return sorted(found, key=lambda item: (-item.bytes, item.identity))


def prune(layout: Layout, stages: Iterable[Usage]) -> int:
    """Removes stages (renamed first, so that nobody reads a half); bytes that came free.

    A stage whose claim is held is left alone: someone works with its inputs now.
    """
    freed = 0
    for stage in stages:
        if claims.is_held(layout.claims / stage.identity):
            continue
        if files.remove_tree(stage.path, layout.scratch):
            freed += stage.bytes
    return freed


def weight(path: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
