"""Records of a results folder, also where it is a compacted copy that was handed on."""

from ablate.errors import StoreError
from ablate.store import records
from ablate.store.layout import Layout
from ablate.store.records import Record


def all_records(layout: Layout) -> list[Record]:
    """The newest revision of every run, the last finished last."""
    found = [*records.records(layout), *handed_on_records(layout)]
    return sorted(found, key=lambda record: float(record.data["finished"]))


def find_record(layout: Layout, prefix: str) -> Record:
    """The run whose identity begins with `prefix`.

    Raises:
        StoreError: no such run, or several (each is named).
    """
    copied = [record for record in handed_on_records(layout) if record.identity.startswith(prefix)]
    if not copied:
        return records.find(layout, prefix)
    if len(copied) > 1:
        listed = ", ".join(record.short for record in copied[:8])
        raise StoreError(f"'{prefix}' fits {len(copied)} runs: {listed}. Give more characters")
    return copied[0]


def handed_on_records(layout: Layout) -> list[Record]:
    """Runs that are there in a compacted copy alone."""
    if not layout.compact.is_dir():
        return []
    # pandas, which a store without such a copy need not wait for
    from ablate.results.compact import handed_on

    return handed_on(layout)
