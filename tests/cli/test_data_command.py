"""`ablate data`: counts, histograms, what was left out, examples, and clear refusals."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ablate.cli.data import main
from ablate.errors import ConfigError, DataError

Command = Callable[..., subprocess.CompletedProcess[str]]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def ragged(tmp_path: Path) -> Path:
    """40 prompts, three quarters with two responses, the others with three; a double, a repeat."""
    rows = [
        {
            "prompt": f"question {i}",
            "responses": [f"answer {k}" + "!" * k for k in range(3 if i % 4 == 0 else 2)],
            "scores": [float(k) for k in range(3 if i % 4 == 0 else 2)],
            "split": ["train", "train", "train", "valid", "test"][i % 5],
            "source": ["web", "book"][i % 2],
        }
        for i in range(40)
    ]
    rows.append({**rows[1], "split": "test"})
    rows.append({"prompt": "double", "responses": ["a", "a"], "scores": [1, 2], "split": "train"})
    return write(tmp_path / "ragged.jsonl", rows)


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(words) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_rows_that_cannot_be_used_are_listed_beside_the_others(
    ragged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ragged.read_text().splitlines()
    lines[3] = json.dumps({"prompt": "p", "responses": ["a"], "scores": [1]})
    lines[10] = "{no json"
    ragged.write_text("\n".join([*lines, *["[]"] * 10]))
    assert main(["local", f"dataset.path={ragged}"]) == 1
    out = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("12 rows cannot be used") for line in out)
    assert "ragged.jsonl, row 4: 1 response(s); at least 2 are needed to prefer one" in out
    assert any(line.startswith("ragged.jsonl, row 11: Expecting property name") for line in out)
    assert "… and 2 more" in out
    assert "valid 7 16 2 to 3" in out


def test_counts_lengths_and_histograms_are_those_of_the_file(
    ragged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(capsys, "local", f"dataset.path={ragged}")
    assert "rows without two different responses: 1" in lines
    assert "prompts of train that also stand in test: 1" in lines
    assert "train 23 52 2 to 3" in lines
    assert "sft (as train) 23 52 2 to 3" in lines
    assert "valid 8 18 2 to 3" in lines
    assert "test 9 20 2 to 3" in lines
    bars = [line.split() for line in lines if "█" in line]
    assert [(b[0], b[2]) for b in bars] == [
        ("2", "30"), ("3", "10"),
        ("0", "40"), ("1", "40"), ("2", "10"),
        ("web", "20"), ("book", "20"),
    ]  # fmt: skip
    assert len(bars[0][1]) == 40
    assert len(bars[1][1]) == 13
    assert "responses, characters 8 9 8.7 10 10" in lines
    assert "2 answer 2!!" in lines


def test_a_tokenizer_of_a_model_folder_counts_tokens_without_its_model(
    ragged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / "model"
    folder.mkdir()
    core.save(str(folder / "tokenizer.json"))
    lines = shown(capsys, "local", f"dataset.path={ragged}", "base_model=hf",
                  f"base_model.path={folder}")  # fmt: skip
    assert "prompts, tokens 2 2 2.0 2 2" in lines


def test_label_noise_is_shown_on_the_given_order(
    ragged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(capsys, "local", f"dataset.path={ragged}", "dataset.labels.flip_rate=0.5")
    assert "label model {'flip_rate': 0.5}" in lines
    (line,) = [line for line in lines if "of the untied pairs as the scores do" in line]
    share = float(line.split()[3])
    assert 15 < share < 85


def test_a_world_shows_demonstrations_and_needs_no_torch(ablate: Command) -> None:
    done = ablate("data", "sums")
    assert done.returncode == 0, done.stderr
    assert "responses are sampled (16 per prompt)" in done.stdout
    assert "tokens (words)" in done.stdout
    code = (
        "import sys\nfrom ablate.cli.data import main\nmain(['lists'])\n"
        "assert 'torch' not in sys.modules"
    )
    quiet = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert quiet.returncode == 0, quiet.stderr
    assert "ablate data" in ablate("help").stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "there is no dataset 'nowhere'. Known: helpsteer2"),
        (["local"], "dataset.path must be given"),
        (["local", "dataset.path=no.jsonl"], "no.jsonl: no such file"),
        (["lists", "--fast"], "data takes no flag --fast"),
        (["lists", "sums"], "one dataset at a time"),
        (["lists", "dataset.colour=red"], "colour"),
        (["nectar"], "hf download berkeley-nest/Nectar --repo-type dataset"),
    ],
)
def test_mistakes_are_told(words: list[str], told: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        main(words)
    assert told in str(caught.value)
