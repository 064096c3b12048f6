"""What stays of a policy once its run is recorded: `keep=all|best|last|adapter|none`.

A stage in `stages/` is whole or absent. What is kept moves to `policies/<identity>/`, and the stage
goes; a run that needs the whole of it later trains it again.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ablate.stages.graph import Stage
from ablate.store import files, records
from ablate.store.layout import Layout
from ablate.store.records import Record
from ablate.store.sweeps import closed_sweeps, read_sweep, sweeps

RESULT = "result.json"


def reduce_policies(rounds: Sequence[Stage], layout: Layout, record: Record, keep: str) -> None:
    """Keeps of a recorded run's policies what was asked, and frees the rest.

    A policy that an unfinished run of a frozen sweep needs too stays whole: the last of these runs
    comes here again. So do all beside sweeps of other accounts, which cannot be read.

    Args:
        rounds: the policy stages of the run, the last round last; only that one's weights stay.
        keep: all, best (the checkpoint that was evaluated), last, adapter (of the best) or none.
    """
    if keep == "all" or closed_sweeps(layout):
        return
    needed = _needed_by_others(layout, record.identity)
    for stage in rounds:
        path = layout.stages / stage.name / stage.identity
        if stage.identity in needed or not path.exists():
            continue
        chosen = None
        if stage is rounds[-1]:
            chosen = _chosen(path, record, keep)
        if chosen is not None:
            with files.scratch(layout.scratch, f"keep-{stage.identity[:12]}") as private:
                shutil.copytree(path / chosen, private / chosen)
                shutil.copyfile(path / RESULT, private / RESULT)
                files.write_manifest(private)
                files.publish(private, kept_folder(layout, stage.identity))
        files.remove_tree(path, layout.scratch)


def kept_folder(layout: Layout, identity: str) -> Path:
    """Where the kept part of a policy lies."""
    return layout.root / "policies" / identity


def _chosen(path: Path, record: Record, keep: str) -> Path | None:
    """The part of a policy's folder that stays."""
    best = Path(f"step-{record.data['policy']['step']}")
    if keep == "best":
        return best
    if keep == "last":
        return Path(f"step-{files.read_json(path / RESULT)['last']}")
    # a training that diverged at once has no adapter yet
    return best / "adapter" if keep == "adapter" and (path / best / "adapter").is_dir() else None


def _needed_by_others(layout: Layout, identity: str) -> set[str]:
    """Policies that runs of frozen sweeps read which have no record yet."""
    needed: set[str] = set()
    for folder in sweeps(layout):
        for run, policies in read_sweep(folder).policies.items():
            if run == identity or records.has_record(layout, run):
                continue
            needed.update(policies)
    return needed
