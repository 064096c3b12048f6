"""`ablate objectives`: what it says is what the level files say, without torch."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from ablate.cli.objective_facts import all_facts, choices, not_offered, plain, slots
from ablate.cli.objectives import BEGIN, END, main, markdown, show_list
from ablate.config.levels import level_names, level_path, read_level
from ablate.config.objective import objective_config
from ablate.errors import ConfigError

LEVELS = level_names("objective")
DOCS = Path(__file__).resolve().parents[2] / "README.md"
REGENERATE = "python -m ablate objectives --into README.md"


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def squeezed(text: str) -> str:
    """Without any white space, so that wrapped words can be found."""
    return "".join(text.split())


@pytest.mark.parametrize("columns", [80, 200])
def test_the_list_has_every_level_with_title_source_formula_and_reading(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = shown(capsys)
    assert max(cell_len(line) for line in text.splitlines()) <= columns
    if columns == 80:
        # one paragraph per level, in order; its words may be wrapped but are not cut
        starts = [line.split()[0] for line in text.splitlines() if re.match(r"\w\S* .*", line)]
        assert [word for word in starts if word in LEVELS] == LEVELS
        flat = squeezed(text)
        for name in LEVELS:
            level = read_level("objective", name)
            for part in ("title", "formula", "rpo_reading"):
                assert squeezed(level[part]) in flat, (name, part)
            assert squeezed(f"arXiv {level['arxiv']}" if level["arxiv"] else "no arXiv id") in flat
    else:
        # cells are wrapped side by side: every level has its row
        assert [name for name in LEVELS if re.search(rf"^{name}\b", text, re.MULTILINE)] == LEVELS


def test_the_list_imports_no_torch_and_no_trainer() -> None:
    code = (
        "import sys; from ablate.cli.main import run; code = run(['objectives'])\n"
        "heavy = {'torch', 'transformers', 'trl', 'pandas', 'hydra'} & set(sys.modules)\n"
        "sys.exit(code or (f'imports {heavy}' if heavy else 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_names_that_several_papers_use_are_told_apart() -> None:
    found = all_facts()
    titles = [item.config.title for item in found]
    assert len(set(titles)) == len(titles)
    for item in found:
        spelled_out = len(item.config.title.split()) > 1
        clash = re.search(r"(^|_)(rpo|pro|spo|tpo|apo|vpo)(_|$)", item.name)
        if clash:
            assert item.config.arxiv, item.name
            assert spelled_out, item.name


def test_markdown_has_one_row_of_the_same_cells_for_each_level() -> None:
    rows = [line for line in markdown(all_facts(), []).splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == LEVELS
    for name, row in zip(LEVELS, rows, strict=True):
        level = read_level("objective", name)
        # a bar inside a cell is escaped, or the table would gain a column
        cells = re.split(r"(?<!\\)\|", row)
        assert len(cells) == 10, name
        assert level["formula"] in cells[4].replace("\\|", "|")
        if level["arxiv"]:
            assert f"(https://arxiv.org/abs/{level['arxiv']})" in cells[3]
        if level.get("beta") is not None:
            assert f"beta={level['beta']:g}" in cells[7]


def test_the_documentation_is_in_step(capsys: pytest.CaptureFixture[str]) -> None:
    text = DOCS.read_text(encoding="utf-8")
    between = text.split(BEGIN)[1].split(END)[0].strip("\n")
    assert between == shown(capsys, "--format", "md").strip("\n"), f"regenerate: {REGENERATE}"
    assert REGENERATE in text


def test_into_replaces_what_is_between_the_markers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"before\n{BEGIN}\nto be replaced\n{END}\nafter\n")
    shown(capsys, "--into", str(file))
    first = file.read_text()
    assert first.startswith(f"before\n{BEGIN}\n| level |")
    assert first.endswith(f"\n{END}\nafter\n")
    assert "to be replaced" not in first
    shown(capsys, "--into", str(file))
    assert file.read_text() == first
    for text in ("no markers", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="must hold the line"):
            main(["--into", str(file)])
        assert file.read_text() == text
    with pytest.raises(ConfigError, match="cannot read"):
        main(["--into", str(tmp_path / "gone.md")])


@pytest.mark.parametrize("name", LEVELS)
def test_a_page_holds_slots_parameters_needs_and_the_file(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, name)
    level = read_level("objective", name)
    config = objective_config(level)
    flat = squeezed(text)
    for part in ("title", "formula", "rpo_reading"):
        assert squeezed(level[part]) in flat
    for slot in slots():
        row = re.search(rf"^  {slot} +(\S+)", text, re.MULTILINE)
        assert row is not None, slot
        assert row[1] == plain(getattr(config, slot))
    for parameter in ("beta", "eta", "epsilon"):
        if level.get(parameter) is not None:
            assert re.search(rf"^  {parameter} +{plain(level[parameter])} ", text, re.MULTILINE)
    assert f"objective/{name}.yaml" in text
    assert f'make_objective("{name}"' in text


@pytest.mark.parametrize("columns", ["40", "300"])
def test_a_file_can_be_pasted_whatever_the_width(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    longest = max(LEVELS, key=lambda name: max(map(len, level_path("objective", name).open())))
    for name in ("simpo", longest):
        text = level_path("objective", name).read_text().rstrip()
        assert f"\n{text}\n" in shown(capsys, name)


def test_a_slot_lists_the_values_that_the_schema_takes(capsys: pytest.CaptureFixture[str]) -> None:
    text = squeezed(shown(capsys, "dpo"))
    assert "distancece" + ",".join(c for c in choices("distance") if c != "ce") in text
    assert {"hinge", "sq", "fwd"} <= set(choices("distance"))
    assert choices("subtract_entropy") == ["true", "false"]
    assert "null" in choices("pairing")
    assert choices("beta") == []


def test_what_a_run_cannot_train_is_marked_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "sparse_po (Python only)" in shown(capsys)
    page = " ".join(shown(capsys, "sparse_po").split())
    assert "in Python only: objective=sparse_po needs a weight for every token" in page
    assert "ablate objective=sparse_po" not in page
    assert "ablate objective=dpo" in shown(capsys, "dpo")


def test_what_is_not_offered_stands_below_the_list(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text(
        '- {name: UPO, arxiv: "2409.11212", reason: the weight of a pair is not published}\n'
        "- {name: Nameless, arxiv: null, reason: a | b}\n"
    )
    assert [row.name for row in not_offered(file)] == ["UPO", "Nameless"]
    assert not_offered(tmp_path / "gone.yaml") == []
    # the shipped list is well formed, and nothing on it is offered under that name
    titles = {item.config.title for item in all_facts()}
    assert not titles & {row.name for row in not_offered()}
    screen = io.StringIO()
    console = Console(width=80, file=screen)
    show_list(console, all_facts(), not_offered(file))
    text = screen.getvalue()
    assert text.index("simpo ") < text.index("Not verified, not offered") < text.index("UPO  ")
    page = markdown(all_facts(), not_offered(file))
    assert "| UPO | [2409.11212](https://arxiv.org/abs/2409.11212) | the weight of a pair" in page
    assert "| Nameless | none | a \\| b |" in page


def test_a_level_of_ones_own_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "objective"
    own.mkdir()
    (own / "mine.yaml").write_text(
        "# Mine: DPO with a stronger pull.\ndefaults: [_pair, _self_]\nname: mine\ntitle: My own\n"
        'arxiv: null\nformula: "-log σ(2Δh)"\nrpo_reading: "D_bwd"\nchecked: paper\n'
        "beta: 2.0   # tried on a napkin\n"
    )
    assert re.search(r"^mine +My own", shown(capsys, "--config-dir", str(tmp_path)), re.MULTILINE)
    page = shown(capsys, "mine", "-cd", str(tmp_path))
    assert "tried on a napkin" in page
    assert "Mine: DPO with a stronger pull." in page
    commands = [line for line in page.splitlines() if line.startswith("  ablate ")]
    assert commands
    assert all(f"--config-dir {tmp_path}" in line for line in commands), "else it is not found"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simpoo"], "Unknown objective 'simpoo'. Did you mean 'simpo'?"),
        (["dpo", "--format", "md"], "whole list"),
        (["--format", "html"], "invalid choice"),
        (["--config-dir", "/nowhere/at/all"], "does not exist"),
        (["dpo", "ipo"], "usage: ablate objectives"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        main(words)


def test_from_the_command_line(ablate: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = ablate("objectives", "rpo_bdw")
    assert done.returncode == 2
    assert "Did you mean 'rpo_bwd'?" in done.stderr
    done = ablate("objectives", "rpo_bwd")
    assert done.returncode == 0, done.stderr
    assert "KL(softmax(ηr) || softmax(βh))" in done.stdout
