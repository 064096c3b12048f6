"""Tables as LaTeX through pdflatex: they compile as they are, in a document with booktabs."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ablate.analysis import Question, build
from ablate.analysis.formats import latex
from ablate.results import load_study
from ablate.store import records
from ablate.store.layout import Layout
from madestore import answers, config_of, freeze, put

DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs}
\begin{document}
%s
\end{document}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names with signs that LaTeX minds, a failed run, a diverged one, a significant cell."""
    root = tmp_path_factory.mktemp("latex") / "store"
    made = []
    for number, objective in enumerate(("dpo", "rpo_bwd", "50%_&_{#}")):
        for seed in range(3):
            table = answers(5 + number, seed * 10 + number, prompts=30)
            status = "diverged" if (number, seed) == (1, 1) else "done"
            made.append(put(root, table, objective=objective, seed=seed, status=status))
    configs = [record.data["config"] for record in made] + [config_of(objective="dpo", seed=3)]
    freeze(root, configs, [*(record.identity for record in made), "a" * 32], "mine")
    records.write_failure(
        records.new_attempt(Layout(root), "a" * 32), "x", r"50 % of ~/a_b\c & {d} ^ é → ≥", None
    )
    return root


@pytest.mark.parametrize(
    "question",
    [
        Question(rows=("objective",), baseline="dpo", margin=0.3,
                 metrics=("reward/test", "win_rate/test", "kl/test")),
        Question(rows=("objective",), cols=("num_responses",), baseline="dpo"),
    ],
    ids=["metrics side by side", "columns"],
)  # fmt: skip
def test_a_table_compiles(store: Path, tmp_path: Path, question: Question) -> None:
    assert shutil.which("pdflatex"), "apt-get install texlive-latex-recommended (make latex-test)"
    study = load_study(store, "mine")
    table = build(study.frame, study.lacking, question)
    assert not np.isnan([entry.mean for entry in table.entries.values()]).all()
    (tmp_path / "table.tex").write_text(DOCUMENT % latex(table))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 10_000
    assert "Missing character" not in (tmp_path / "table.log").read_text(errors="replace")
