"""The forms of a table: the same numbers, escaped, marked and explained in each."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from ablate.analysis import AblationTable, Question, build
from ablate.analysis.formats import FORMATS, escape_latex, mark, panels, value
from ablate.results import load_study
from madestore import answers, config_of, freeze, put


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> AblationTable:
    root = tmp_path_factory.mktemp("formats") / "store"
    rng = np.random.default_rng(0)
    kept = [
        put(root, answers(mean + rng.normal(0, 0.05), seed, prompts=50), objective=name, seed=seed,
            status="diverged" if (name, seed) == ("rpo_bwd", 0) else "done")
        for name, mean in (("dpo", 5.0), ("rpo_bwd", 8.0), ("ipo", 5.0)) for seed in (0, 1, 2)
    ]  # fmt: skip
    configs = [record.data["config"] for record in kept] + [config_of(objective="kto", seed=0)]
    freeze(root, configs, [*(record.identity for record in kept), "a" * 32], "mine")
    study = load_study(root, "mine")
    question = Question(
        rows=("objective",), metrics=("reward/test", "win_rate"), baseline="dpo", margin=2.0
    )
    return build(study.frame, study.lacking, question)


def test_marks_say_what_the_tests_said(made: AblationTable) -> None:
    at = {entry.row[0]: entry for entry in made.entries.values() if entry.metric == "reward/test"}
    assert (mark(at["rpo_bwd"]), mark(at["dpo"]), mark(at["ipo"])) == ("*", "", "≈")
    assert at["rpo_bwd"].best
    assert not at["dpo"].best
    assert value(at["kto"]) == "—"


def test_every_form_holds_every_value_the_caption_and_the_notes(made: AblationTable) -> None:
    for name, form in FORMATS.items():
        text = form(made)
        plain = text.replace(r"$\pm$", "±").replace(r"\%", "%").replace(r"$\approx$", "≈")
        assert "Holm" in plain, name
        assert "missing" in plain, name
        if name != "csv":
            for entry in made.entries.values():
                assert value(entry).replace("—", "") in plain, name
            assert "1 of 3 diverged" in plain
            assert "1 of 1 missing" in plain


def test_csv_is_read_back_with_full_numbers(made: AblationTable) -> None:
    back = pd.read_csv(io.StringIO(FORMATS["csv"](made)), comment="#")
    assert len(back) == len(made.entries)
    entry = made.entries[("rpo_bwd",), (), "reward/test"]
    row = back[(back["objective"] == "rpo_bwd") & (back["metric"] == "reward/test")].iloc[0]
    assert row["mean"] == pytest.approx(entry.mean)
    assert entry.comparison is not None
    assert row["p_holm"] == pytest.approx(entry.comparison["p_holm"])
    assert row["diverged"] == 1
    assert back[back["objective"] == "kto"]["missing"].tolist() == [1, 1]


def test_latex_is_booktabs_with_equal_columns_and_no_bare_special(made: AblationTable) -> None:
    text = FORMATS["latex"](made)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == len(panels(made))
    (columns,) = re.findall(r"\\begin{tabular}{(\w+)}", text)
    lines = [line for line in text.splitlines() if " & " in line and line.endswith(r"\\")]
    assert len(lines) == 1 + len(made.rows)
    assert {line.count(" & ") for line in lines} == {len(columns) - 1}
    assert "rpo\\_bwd" in text
    assert not re.search(r"(?<!\\)[%_#]", text)
    assert text.count("{") == text.count("}")
    assert r"\bfseries" in text
    assert "win rate against SFT, test, \\%" in text, "units stand in the heading"


def test_latex_escapes_everything() -> None:
    assert escape_latex("a_b 5 % {x} \\ ~ ^ & # $") == (
        r"a\_b 5 \% \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \& \# \$"
    )


class Reader(HTMLParser):
    """Collects the open elements' balance and the rows of the tables."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_whole_and_needs_nothing_else(made: AblationTable) -> None:
    text = FORMATS["html"](made)
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert set(reader.rows) == {3}
    assert not re.search(r"(src|href)=|https?:|@import", text)


def test_markdown_rows_have_equal_columns(made: AblationTable) -> None:
    lines = [line for line in FORMATS["md"](made).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    (line,) = [line for line in lines if line.startswith("| rpo_bwd")]
    assert "**" in line
    assert r"\*" in line
