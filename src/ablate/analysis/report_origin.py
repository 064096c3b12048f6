"""Where the runs of a report come from: their settings, commits, versions and machines."""

import pandas as pd

from ablate.analysis import arms
from ablate.analysis import report_html as h

#: settings that are words for people, or places
WORDS = ("config.results_dir", *(f"config.objective.{name}" for name in (
    "title", "formula", "rpo_reading", "arxiv", "checked")))  # fmt: skip


def settings_of(runs: pd.DataFrame) -> tuple[list[list[str]], list[list[str]]]:
    """Settings that all runs share, and those in which they differ, with their values."""
    common: list[list[str]] = []
    varied: list[list[str]] = []
    for column in runs.columns:
        if not column.startswith("config.") or column.startswith(WORDS):
            continue
        values = list(dict.fromkeys(runs[column].map(arms.plain)))
        line = [f"<code>{h.esc(arms.short(column))}</code>", h.esc(", ".join(values))]
        (common if len(values) == 1 else varied).append(line)
    return common, varied


def origin_of(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Commits, versions and machines of the runs."""
    rows = []
    for column, what in (
        ("commit", "commit of ablate"),
        ("changed_files", "files changed since it"),
        ("provenance.cpu", "processor"),
        ("machine.device_name", "accelerator"),
        ("machine.device", "device"),
        ("machine.threads", "threads"),
        ("provenance.python", "Python"),
        *((f"provenance.versions.{name}", name) for name in ("torch", "transformers", "trl")),
    ):
        if column not in frame or frame[column].isna().all():
            continue
        counts = frame[column].map(arms.plain).value_counts()
        several = len(counts) > 1
        told = ", ".join(f"{v} ({n} runs)" if several else str(v) for v, n in counts.items())
        rows.append((what, told))
    seconds = float(frame["device_seconds"].sum())
    rows.append(("device time of the runs' own stages", f"{seconds / 3600:.2f} h"))
    return rows
