"""What the repository promises of itself: the README's words, and nothing about its making."""

import re
import subprocess
from pathlib import Path

import pytest

from ablate.config.levels import conf_dir, level_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def tracked_files() -> list[Path]:
    """The files of the repository, or of the folder where it is no checkout."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False
    )
    names = done.stdout.split("\n") if done.returncode == 0 else []
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_the_readmes_python_runs() -> None:
    """The objective as a function, as the README shows it."""
    block = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[-1]
    names: dict[str, object] = {}
    exec(block, names)
    group = names["group"]
    assert group.policy_logps.grad.abs().sum() > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("factor", ["num_responses", "reward", "base_model", "dataset", "judge",
                                    "collection", "shaping", "sampler"])  # fmt: skip
def test_the_readmes_table_names_every_level(factor: str) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{factor}`"))
    for level in level_names(factor):
        assert f"`{level}`" in row


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_level_file_begins_with_a_line_that_says_what_it_is() -> None:
    for path in conf_dir().glob("*/*.yaml"):
        assert path.read_text().startswith("# "), path


def test_no_file_is_longer_than_can_be_read() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path


def test_no_path_of_a_machine_is_written_down() -> None:
    for path in tracked_files():
        if path.suffix in (".py", ".yaml", ".md", ".toml", ".txt", ".sh", ".json"):
            text = path.read_text(errors="replace")
            assert "/work/" + "main" not in text, path
            assert "/root" + "/" not in text, path
