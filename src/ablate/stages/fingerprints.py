"""Fingerprints of objectives at planning time, remembered so that a plan needs no torch."""

import functools
from pathlib import Path
from typing import Any

from ablate.config.identity import digest
from ablate.config.objective import ObjectiveConfig
from ablate.store.files import checksum
from ablate.store.layout import Layout
from ablate.store.memory import remembered


def objective_content(objective: ObjectiveConfig, layout: Layout) -> dict[str, Any]:
    """What identifies an objective: its slots, and a digest of its loss and gradient.

    With the digest a mended loss is a new run; without the words a renamed level is not. The
    digest is remembered by configuration and source code.
    """
    config = objective.model_dump()

    def compute() -> str:
        from ablate.objectives import fingerprint

        return fingerprint(config)

    key = digest({"config": config, "source": _source_digest()})
    slots = {name: value for name, value in objective.identity().items() if name != "name"}
    path = layout.cache / "fingerprints.json"
    digest_of_loss = remembered(path, key, compute, keep=not layout.read_only)
    return {"slots": slots, "fingerprint": digest_of_loss}


@functools.cache
def _source_digest() -> str:
    package = Path(__file__).resolve().parents[1]
    files = sorted((package / "objectives").rglob("*.py")) + sorted(package.glob("groups*"))
    return digest([checksum(path) for path in files if path.is_file()])
