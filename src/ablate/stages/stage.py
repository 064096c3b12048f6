"""A stage as planned: what it is called, what decides it, what it needs. Free of torch."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ablate.config.identity import digest
from ablate.config.run import RunConfig
from ablate.stages.registry import KINDS


@dataclass(frozen=True)
class Stage:
    """A content-addressed piece of work.

    `params` is plain data and, with the inputs' identities, decides the identity. `run` is the
    run that asked for the stage: it tells where files lie, which is no part of the identity.
    """

    name: str
    role: str
    params: dict[str, Any]
    inputs: dict[str, "Stage"]
    run: RunConfig = field(repr=False)

    @cached_property
    def identity(self) -> str:
        return digest(
            {
                "stage": self.name,
                "version": KINDS[self.name].version,
                "params": self.params,
                "inputs": {role: stage.identity for role, stage in self.inputs.items()},
            }
        )

    @property
    def title(self) -> str:
        """What a person reads beside the progress bar."""
        title = KINDS[self.name].title
        return title if self.role == self.name else f"{title} ({self.role})"

    def walk(self) -> Iterator["Stage"]:
        """This stage and all it needs, inputs first, each identity once."""
        seen: set[str] = set()

        def visit(stage: Stage) -> Iterator[Stage]:
            if stage.identity in seen:
                return
            seen.add(stage.identity)
            for needed in stage.inputs.values():
                yield from visit(needed)
            yield stage

        yield from visit(self)
