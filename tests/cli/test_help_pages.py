"""The help of every subcommand has one form."""

import re

import pytest

from ablate.cli.commands import COMMANDS
from ablate.cli.main import run

PAGES = sorted(set(COMMANDS) - {"help"})


def page(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        run(list(words))
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


@pytest.mark.parametrize("name", PAGES)
def test_usage_a_sentence_options_words_examples(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # asking for help needs no store
    monkeypatch.chdir("/")
    text = page(capsys, name, "--help")
    usage, sentence, *rest = text.split("\n\n")
    assert usage.startswith(f"usage: ablate {name} ")
    assert re.fullmatch(r"[A-Z][^.]*\.", " ".join(sentence.split()))
    titles = [part.split("\n")[0] for part in rest]
    assert titles[-3:] == ["options:", "words:", "examples:"]
    assert re.search(r"^  -h, --help +show this help and stop$", text, re.MULTILINE)
    examples = rest[-1].strip().split("\n")[1:]
    assert examples
    assert all(line.startswith("  ablate ") for line in examples)
    assert f"ablate {name}" in rest[-1]
    assert max(map(len, text.splitlines())) <= 100
    assert page(capsys, name, "-h") == text
    assert page(capsys, "help", name) == text


def test_help_of_what_is_no_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", "nonsense"]) == 2
    assert "objectives" in capsys.readouterr().err
    assert run(["help"]) == 0
    assert "factors and their levels" in capsys.readouterr().out
