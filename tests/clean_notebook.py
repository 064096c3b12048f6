"""Takes out of an executed notebook what differs between two runs of it: times, paths, ids."""

import sys
from pathlib import Path

import nbformat


def clean(source: Path, target: Path) -> None:
    """Writes the notebook with its outputs and nothing of when and where it ran."""
    book = nbformat.read(source, as_version=4)
    kernel = book.metadata["kernelspec"]
    book.metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {name: kernel[name] for name in ("display_name", "language", "name")},
    }
    kept = []
    for number, cell in enumerate(book.cells):
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            continue
        cell.metadata = {"tags": tags} if tags else {}
        cell.id = f"cell-{number:02d}"
        kept.append(cell)
    book.cells = kept
    nbformat.write(book, target)


if __name__ == "__main__":
    clean(Path(sys.argv[1]), Path(sys.argv[2]))
