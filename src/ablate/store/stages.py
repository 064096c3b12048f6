"""The stage store: content-addressed directories, published once, verified when they are read."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ablate.errors import StoreError
from ablate.store import claims, crash, files
from ablate.store.layout import Layout


@dataclass
class StageStore:
    """Stages below one root.

    `shared` is consulted first for stages that may be reused; a forced run keeps what it
    recomputes to itself in `own`, so that nothing published is ever overwritten.
    """

    layout: Layout
    own: Path | None = None
    fresh: frozenset[str] = frozenset()
    _verified: set[Path] = field(default_factory=set)

    def path(self, name: str, identity: str) -> Path:
        """Where the stage lies, or will lie."""
        base = self.own if self.own is not None and self._is_fresh(name) else self.layout.stages
        return base / name / identity

    def find(self, name: str, identity: str) -> Path | None:
        """The verified directory of a stage, or None.

        A damaged stage is set aside with a message and counts as absent.
        """
        path = self.path(name, identity)
        if path in self._verified and path.exists():
            return path
        if not path.exists():
            return None
        problem = files.damage(path)
        if problem is None:
            self._verified.add(path)
            return path
        aside = path.with_name(f"{identity}.damaged-{time.time_ns()}")
        crash.point("damaged-before-rename")
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, aside)
        crash.point("damaged-after-rename")
        print(
            f"stage {name} {identity[:12]} is damaged: {problem}; "
            f"set aside as {aside.name} and computed again",
            file=sys.stderr,
        )
        return None

    def partial(self, name: str, identity: str) -> Path | None:
        """Where an interrupted training of the stage is saved; a forced one begins anew."""
        if self.own is not None and self._is_fresh(name):
            return None
        return self.layout.partial / identity

    def exists(self, name: str, identity: str) -> bool:
        """Whether the stage is published; cheap and unverified, for plans and lists."""
        return (self.path(name, identity) / files.MANIFEST).exists()

    @contextlib.contextmanager
    def computing(self, name: str, identity: str) -> Iterator[Path | None]:
        """A private directory to compute the stage in, published when the block ends well.

        Yields None if another process published it while we waited for the claim.
        An exception (Ctrl-C included) removes the private directory and publishes nothing.
        """
        target = self.path(name, identity)
        claim_path = self.layout.claims / identity
        if self.own is not None and self._is_fresh(name):
            claim_path = self.own / ".claims" / identity
        crash.point("stage-before-claim")
        with claims.claimed(claim_path, done=lambda: self.exists(name, identity)) as claim:
            if claim is None:
                yield None
                return
            with files.scratch(self.layout.scratch, f"{name}-{identity[:12]}") as private:
                crash.point("stage-claimed")
                yield private
                crash.point("stage-computed")
                try:
                    files.write_manifest(private)
                    crash.point("stage-manifest-written")
                    files.publish(private, target)
                    crash.point("stage-published")
                except OSError as error:
                    raise StoreError(
                        f"stage {name} could not be written to {target}: {error}"
                    ) from error
                self._verified.add(target)
                partial = self.partial(name, identity)
                if partial is not None:
                    shutil.rmtree(partial, ignore_errors=True)

    def _is_fresh(self, name: str) -> bool:
        return "*" in self.fresh or name in self.fresh
