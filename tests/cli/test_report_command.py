"""`ablate report`: what the file says, its figures as files, and mistakes in one message."""

import html
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.analysis import Question, build, plots
from ablate.analysis.report_html import heading_of
from ablate.analysis.report_parts import Maker, new_notes
from ablate.analysis.samples import samples
from ablate.cli.main import run
from ablate.metrics import PAIRS, Estimate, Table, mean_over_prompts, metric, registry
from ablate.results import load, load_study
from madestore import answers, config_of, freeze, put


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three objectives, three seeds, the last tuned; a record that is damaged."""
    root = tmp_path_factory.mktemp("report") / "store"
    for seed in (0, 1, 2):
        for objective, mean in (("dpo", 5.0), ("simpo", 6.0)):
            put(root, answers(mean + seed / 3, seed, prompts=30), objective=objective, seed=seed)
    for seed, beta in ((0, 0.1), (0, 0.2), (5, 0.2), (6, 0.2)):
        table = answers(5.5 + beta, seed + round(100 * beta), prompts=30)
        put(root, table, objective="ipo", objective__beta=beta, seed=seed)
    bad = put(root, answers(5.0, 9), objective="dpo", seed=9)
    (bad.path / "record.json").write_text("{")
    return root


def test_the_file_tells_the_study_and_what_was_left_out(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "study.html"
    words = ["report", "--rows", "objective", "--baseline", "dpo", "--choose", "reward/valid",
             "--out", str(target), "--figures", str(tmp_path / "figures")]  # fmt: skip
    assert run([*words, f"results_dir={store}"]) == 3
    told = capsys.readouterr()
    assert "damaged" in told.err
    text = target.read_text()
    shown = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    for part in ("is damaged and left out", "Better than dpo", "best of 2 trials",
                 "ablate report --rows objective", "a processor", "Hyper-parameters"):  # fmt: skip
        assert part in shown
    assert not re.search(r'(src|href)="(?!#|data:)', text), "nothing outside the file"
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"differences", "frontier", "choices", "tuning"} <= names
    for stem in names:
        for suffix in ("svg", "pdf", "png", "csv"):
            assert (tmp_path / "figures" / f"{stem}.{suffix}").stat().st_size > 0
    tried = pd.read_csv(tmp_path / "figures" / "tuning.csv")
    assert tried.groupby("name")["chosen"].sum().to_dict() == {"ipo": 1}
    assert tried.loc[tried["chosen"], "trial"].item() == "objective.beta=0.2"


def test_figures_hold_the_numbers_that_they_show(store: Path) -> None:
    study = load_study(store)
    frame = study.frame[study.frame["objective"] != "ipo"]
    table = build(frame, study.lacking, Question(rows=("objective",), baseline="dpo"))
    made = plots.frontier(table, "test")
    assert made is not None
    data = made.data.set_index("name")
    for name, rows in frame.groupby("objective"):
        assert data.loc[name, "kl"] == pytest.approx(rows["kl/test"].mean())
        assert data.loc[name, "reward"] == pytest.approx(rows["reward/test"].mean())
    forest = plots.differences(table, "reward/test")
    assert forest is not None
    assert forest.data["difference"].tolist() == table.comparisons["difference"].tolist()
    assert plots.overoptimisation(table) is None, "no run recorded a curve"
    shown = samples(table, "test")
    assert [sample.why for sample in shown].count("drawn blindly") == 3
    assert len({sample.prompt for sample in shown}) == 6
    assert [who for who, _, _ in shown[0].answers] == ["SFT", "dpo", "simpo"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sweep", "nope"], "no sweep 'nope'"),
        (["--metric", "rewrd"], "Did you mean 'reward'"),
        (["--rows", "objective"], "--choose"),
        (["--rows", "objective", "--choose", "reward/valid", "--out", "/proc/no/x"],
         "cannot be written"),
        (["--nonsense"], "--nonsense"),
    ],
)  # fmt: skip
def test_mistakes_are_one_message(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert run(["report", *words, f"results_dir={store}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert told in " ".join(line for line in lines if not line.startswith("damaged"))


def test_a_study_without_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "store"
    freeze(root, [config_of(objective="dpo")], ["a" * 32], "mine")
    assert run(["report", "--sweep", "mine", f"results_dir={root}"]) == 2
    error = capsys.readouterr().err
    assert "no finished run" in error
    assert "1 missing" in error


def test_runs_of_different_judges_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "store"
    put(root, answers(5.0, 0), objective="dpo", seed=0)
    put(root, answers(5.0, 1), objective="ipo", seed=0, judge="hf", judge__kind="hf")
    assert run(["report", "--rows", "objective", f"results_dir={root}"]) == 2
    assert "judge.kind: hf, world" in capsys.readouterr().err
    assert np.isfinite(load(root)["reward/test"]).all()


def test_lines_below_a_note_go_where_the_note_goes() -> None:
    known = ["chosen:", "  dpo", "power: 5 seeds", "cells differ:", "  lr: 1"]
    assert new_notes(["cells differ:", "  beta: 2", "power: 5 seeds"], known) == [
        "cells differ:",
        "  beta: 2",
    ]
    assert new_notes(["chosen:", "  dpo", "new"], known) == ["new"]


def test_the_section_of_every_metric_has_every_metric(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the registry, one that was registered just now, and those against the baseline."""
    there = dict(registry.METRICS)
    monkeypatch.setattr(registry, "METRICS", there)
    monkeypatch.setattr("ablate.analysis.report_parts.METRICS", there)
    monkeypatch.setattr("ablate.analysis.measure.METRICS", there)

    @metric("shouting", title="capitals", unit="%", scale=100.0)
    def shouting(table: Table) -> Estimate:
        loud = np.array([text.isupper() for text in table["response"]], dtype=float)
        return mean_over_prompts(loud, table["prompt_id"])

    frame = load_study(store).frame
    frame = frame[frame["objective"] != "ipo"]
    frame["reward.agreement.accuracy"] = 0.731
    question = Question(rows=("objective",), baseline="dpo")
    made = Maker(frame, pd.DataFrame(), build(frame, pd.DataFrame(), question))
    shown = " ".join(made.metrics("test"))
    assert "73.1" in shown
    # what needs annotators or SFT's training reward, of which this store knows nothing
    lacking = {"worst_group_win_rate", "worst_group_gain", "hacking_gap"}
    held = {c.split("/")[0] for c in frame if c.endswith("/test")}
    computed = {n for n, m in there.items() if m.compute is not None and m.table != PAIRS}
    wanted = (held & set(there)) | computed - lacking
    assert {"shouting", "reward_gain", "win_rate_baseline", "reward_gap"} <= wanted
    for name in wanted:
        assert f">{html.escape(heading_of(f'{name}/test'))}<" in shown
