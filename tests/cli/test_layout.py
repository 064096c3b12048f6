"""Tables and words on narrow terminals: nothing is cut, numbers stay whole, a cell has one name."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from ablate.analysis import Question, build
from ablate.analysis.caption import baseline_of, glued, name_of, study_notes
from ablate.analysis.formats import panels
from ablate.cli.main import run
from ablate.cli.whole import print_in_parts, print_paragraph, print_whole
from ablate.results import load_study
from ablate.results.sweeps import SweepNote
from madestore import answers, config_of, put

NUMBER = "5.790 ± 0.111*"
LEVELS = [("dpo", "offline", "gold", "valid"), ("rpo_sqloo", "online", "explicit", "valid"),
          ("rpo_sqloo", "online", "explicit", "last")]  # fmt: skip
FACTORS = ("objective", "collection", "reward", "training.select_checkpoint")
NAMES = ["dpo, offline, gold, checkpoint=valid", "rpo_sqloo, online, explicit, checkpoint=valid",
         "rpo_sqloo, online, explicit, checkpoint=last"]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three arms that differ in four factors, three seeds each."""
    root = tmp_path_factory.mktemp("layout") / "store"
    for number, (objective, collection, reward, checkpoint) in enumerate(LEVELS):
        for seed in (0, 1, 2):
            put(root, answers(5.0 + number, seed), objective=objective, collection=collection,
                reward=reward, training__select_checkpoint=checkpoint, seed=seed)  # fmt: skip
    return root


def printed(table: Table, width: int, keys: int | None = None) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    if keys is None:
        print_whole(console, table)
    else:
        print_in_parts(console, table, keys)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def made(columns: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("arm of the study", no_wrap=True)
    for number in range(columns):
        table.add_column(f"device time number {number}", justify="right", no_wrap=True)
    for name in ("dpo, K=2", "rpo_bwd, K=4"):
        table.add_row(name, *[NUMBER] * columns)
    return table


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_headings_wrap_at_words_and_numbers_do_not(width: int) -> None:
    lines = printed(made(3), width)
    text = "\n".join(lines)
    assert "…" not in text
    assert text.count(NUMBER) == 6
    assert sorted(re.findall(r"[a-z]+|\b\d\b", text.partition("dpo")[0])) == sorted(
        ["arm", "of", "the", "study", *["device", "time", "number"] * 3, "0", "1", "2"]
    )


def test_columns_that_find_no_room_stand_below_with_the_names_again() -> None:
    lines = printed(made(5), 50, keys=1)
    assert max(map(len, lines)) <= 50
    assert "\n".join(lines).count(NUMBER) == 10
    assert [line.split("  ")[0] for line in lines].count("rpo_bwd, K=4") == 3
    # with room for all there is one table
    assert sum(line.startswith("dpo") for line in printed(made(5), 200, keys=1)) == 1


def test_a_paragraph_lines_up_and_keeps_every_word() -> None:
    console = Console(width=30, file=io.StringIO())
    words = "KL to SFT: a-word-that-is-longer-than-the-whole-line varies [3.4 times] as much"
    print_paragraph(console, words, first="note: ", indent=6)
    assert isinstance(console.file, io.StringIO)
    first, *others = console.file.getvalue().splitlines()
    assert first.startswith("note: ")
    assert all(re.match(r" {6}\S", line) for line in others)
    assert " ".join([first, *others]).split() == ["note:", *words.split()]


@pytest.mark.parametrize("width", range(12, 40))
def test_numbers_in_sentences_keep_their_signs_and_units(width: int) -> None:
    told = "Mean ± 95 % over 5 seeds; * p ≤ 0.05 after Holm; 1.5 ± 0.2 of 100 % of cells"
    console = Console(width=width, file=io.StringIO())
    print_paragraph(console, glued(told))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert " ".join(lines) == told
    for line in lines:
        assert not re.search(r"^[%±≤]|[±≤]$", line), line


@pytest.mark.parametrize("width", [40, 80, 120])
def test_means_of_a_table_keep_their_half_widths_beside_them(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    words = ["table", "--rows", *FACTORS, "--metric", "reward/test", "reward/ood", "kl/test"]
    assert run([*words, f"results_dir={store}"]) == 0
    shown = capsys.readouterr().out.partition("Mean ±")[0]
    assert len(re.findall(r"\d\.\d+ ± \d+\.\d+", shown)) == 9
    assert shown.count("±") == 9
    if width > 40:
        assert max(map(len, shown.splitlines())) <= width


def test_a_cell_has_one_name_in_one_output(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    words = ["table", "--rows", *FACTORS, "--baseline", "dpo offline gold valid"]
    assert run([*words, f"results_dir={store}"]) == 0
    shown = capsys.readouterr().out
    assert f"Differences to {NAMES[0]} from run means" in shown
    _, _, behind = shown.partition("difference to the baseline")
    for name in NAMES[1:]:
        assert re.search(rf"(?m)^{name} +[+-]", behind), name
    # levels side by side without their factors are no name
    assert "offline gold valid" not in shown
    assert "explicit last" not in shown


def test_what_a_sweep_says_of_an_arm_bears_the_name_that_the_table_gives_it(store: Path) -> None:
    frame = load_study(store).frame
    table = build(frame, frame.iloc[:0], Question(rows=FACTORS, baseline="dpo"))
    assert baseline_of(table) == name_of(table, LEVELS[0], ()) == NAMES[0]
    column = "config.training.select_checkpoint"
    last = tuple(frame.loc[frame[column] == "last", "id"])
    notes = [
        SweepNote("rpo_sqloo k=2 explicit tiny lists", "chosen at the edge", last),
        SweepNote("an arm without runs", "chosen at the edge", ("f" * 32,)),
    ]
    assert study_notes(table, notes) == [
        f"{NAMES[2]}: chosen at the edge",
        "an arm without runs: chosen at the edge",
    ]


def test_a_baseline_of_every_column_is_named_by_its_row(store: Path) -> None:
    frame = load_study(store).frame
    rows, cols = ("objective", "reward"), ("training.select_checkpoint",)
    table = build(frame, frame.iloc[:0], Question(rows=rows, cols=cols, baseline="rpo_sqloo"))
    assert baseline_of(table) == "rpo_sqloo, explicit"
    # a column is called what it is called in the names of its cells
    assert panels(table)[0].headings == ["checkpoint=valid", "checkpoint=last"]
    one = Question(rows=rows, cols=cols, baseline="training.select_checkpoint=last")
    table = build(frame, frame.iloc[:0], one)
    assert baseline_of(table) == "rpo_sqloo, explicit, checkpoint=last"


def test_a_list_of_runs_on_a_narrow_terminal_has_every_heading(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run(["ls", f"results_dir={store}"]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    for heading in ("id", "objective", "collection", "status", "judge", "SFT", "win", "%", "KL"):
        assert heading in shown.partition("\ndone")[0].split()
    assert config_of()["base_model"]["name"] in shown
