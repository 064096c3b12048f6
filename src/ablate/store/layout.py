"""Where everything lies below the results folder, and whether that folder can be used."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ablate.errors import StoreError
from ablate.store import claims
from ablate.store.files import clear_abandoned


@dataclass(frozen=True)
class Layout:
    """Paths below the root of a store.

    stages/<name>/<identity>/   published stages, each with a manifest of checksums
    partial/<identity>/         trainings that were interrupted and saved whole
    claims/<identity>/          who computes a stage now
    runs/<identity>/<revision>/ published records: record.json, train.parquet, eval.parquet
    attempts/<identity>/<n>/    attempts at runs: log and cause of those that failed
    sweeps/<name>/              frozen runs of a sweep
    diffs/<sha256>.diff         how the source tree of some runs differed from its commit
    compact/<n>/                all records and tables once more, in few large files
    cache/verdicts/<judge>/     what a judge said of an answer, asked once for all runs

    read_only: whoever has this layout only looks; not even what was computed on the way is kept.
    """

    root: Path
    read_only: bool = False

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    @property
    def partial(self) -> Path:
        return self.root / "partial"

    @property
    def claims(self) -> Path:
        return self.root / "claims"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def attempts(self) -> Path:
        return self.root / "attempts"

    @property
    def sweeps(self) -> Path:
        return self.root / "sweeps"

    @property
    def diffs(self) -> Path:
        return self.root / "diffs"

    @property
    def compact(self) -> Path:
        return self.root / "compact"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    @property
    def wandb(self) -> Path:
        return self.root / "wandb"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def verdicts(self) -> Path:
        return self.cache / "verdicts"


def check_writable(layout: Layout, min_free_mb: int) -> None:
    """Proves that the store can be written and has room, before any work is done.

    Raises:
        StoreError: a folder that cannot be made or written, or too little free space.
    """
    root = layout.root
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root, prefix=".probe-") as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise StoreError(
            f"the results folder {root.resolve()} cannot be written: {error.strerror}. "
            "Choose another with results_dir=/path"
        ) from error
    clear_abandoned(layout.scratch)
    claims.clear_abandoned(layout.claims)
    free_mb = shutil.disk_usage(root).free // 2**20
    if free_mb < min_free_mb:
        raise StoreError(
            f"the results folder {root.resolve()} has {free_mb} MB free, less than "
            f"runtime.min_free_mb={min_free_mb}. Free some space or choose results_dir=/path"
        )
