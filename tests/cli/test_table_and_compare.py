"""`ablate table`, `compare` and `effects` on stores of records and on one real small run."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ablate.cli.main import run
from madestore import answers, config_of, freeze, grid, put
from smallrun import SMALL

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli") / "store"
    grid(root, {"dpo": 5.5, "kto": 4.8, "rpo_bwd": 6.5}, [2, 4], [0, 1, 2])
    return root


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


QUESTION = ["table", "--rows", "objective", "--cols", "num_responses", "--baseline", "dpo"]


def test_the_table_in_a_process_of_its_own(ablate: Command, store: Path) -> None:
    done = ablate(*QUESTION, "--margin", "0.3", f"results_dir={store}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for part in ("K=2", "rpo_bwd", "worse", "better", "Holm", "note: power"):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("form", "part"),
    [("md", "| objective |"), ("latex", r"\toprule"), ("csv", "p_holm"), ("html", "<table>")],
)
def test_every_form_goes_to_the_screen_or_into_a_file(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, part: str
) -> None:
    words = [*QUESTION, "--format", form, f"results_dir={store}"]
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert part in shown
    target = tmp_path / "new" / "table"
    assert run([*words, "--out", str(target)]) == 0
    assert target.read_text() == shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--metric", "rewrd"], "Did you mean 'reward'"),
        (["--metric", "winrate/ood"], "Did you mean 'win_rate/ood'"),
        (["--sweep", "nope"], "no sweep 'nope'"),
        (["--margin", "0"], "positive number"),
        (["--margin", "some"], "positive number"),
        (["--where", "objective=ppo"], "there are: dpo, kto, rpo_bwd"),
        (["--where", "objective"], "setting=value"),
        (["--format", "xls"], "invalid choice"),
        (["--nonsense"], "--nonsense"),
        (["--out", "x"], "--format"),
        (["--format", "md", "--out", "/proc/nope/x"], "cannot be written"),
        (["results_dir=/nowhere/at/all"], "no results folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_message(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert run([*QUESTION, f"results_dir={store}", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ablate: ")
    assert told in error


def test_a_store_without_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "store"
    freeze(root, [config_of(objective="dpo")], ["a" * 32], "mine")
    for words in (["table", "--sweep", "mine"], ["compare", "a", "b"], ["table"]):
        assert run([*words, f"results_dir={root}"]) == 2
        assert "no finished run" in capsys.readouterr().err
    assert run(["table", "--sweep", "mine", f"results_dir={root}"]) == 2
    assert "1 missing" in capsys.readouterr().err


def test_damage_is_named_skipped_and_told_by_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "store"
    for objective in ("dpo", "ipo"):
        for seed in (0, 1):
            last = put(root, answers(5.0, seed), objective=objective, seed=seed)
    (last.path / "record.json").write_text("{")
    for words in (["table", "--rows", "objective"],
                  ["compare", "objective=dpo", "objective=ipo"]):  # fmt: skip
        assert run([*words, f"results_dir={root}"]) == 3
        captured = capsys.readouterr()
        assert last.short in captured.err
        assert "dpo" in captured.out


def test_a_percentage_is_a_share_of_the_best_gain(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*QUESTION, "--margin", "10%", f"results_dir={store}"]) == 0
    shown = capsys.readouterr().out
    from ablate.results import load

    frame = load(store)
    gain = (frame["reward/test"] - frame["reward_sft/test"]).groupby(
        [frame["objective"], frame["num_responses"]]
    ).mean().max()  # fmt: skip
    assert f"no difference of more than {gain / 10:.3f}" in " ".join(shown.split())
    assert "10 % of the best offline gain over SFT, was read off these runs" in " ".join(
        shown.split()
    )
    # what is not said is the same share
    assert run([*QUESTION, f"results_dir={store}"]) == 0
    assert capsys.readouterr().out == shown
    words = [*QUESTION, f"results_dir={store}", "--metric", "kl"]
    assert run(words) == 0
    assert "≈" not in capsys.readouterr().out
    assert run([*words, "--margin", "10%"]) == 2
    assert "give a number" in capsys.readouterr().err


def test_arms_at_equal_kl(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["table", "--rows", "objective", "--baseline", "dpo", f"results_dir={store}"]
    assert run([*words, "--matched-kl", "max"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "judge reward at equal KL, test" in shown
    assert "Judge reward at KL 0." in shown
    for given in ("-1", "far"):
        assert run([*words, "--matched-kl", given]) == 2
        assert "nats, or max" in capsys.readouterr().err


def test_a_sweep_file_that_asks_for_no_such_table(ablate: Command, tmp_path: Path) -> None:
    own = tmp_path / "own" / "sweep"
    own.mkdir(parents=True)
    for told, analysis in (("analysis.lines", "{lines: a}"), ("greater than 0", "{margin: -1}")):
        (own / "bad.yaml").write_text(f"# Bad.\narms:\n  - objective: dpo\nanalysis: {analysis}\n")
        done = ablate("+sweep=bad", "-m", "--config-dir", str(tmp_path / "own"), *SMALL)
        assert done.returncode == 2
        assert told in done.stderr


def test_compare_two_cells_says_what_each_interval_speaks_of(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "objective=rpo_bwd,num_responses=2", "objective=kto,num_responses=2"]
    assert run([*words, "--top", "2", f"results_dir={store}"]) == 0
    shown = capsys.readouterr().out
    from scipy import stats

    from ablate.results import load

    frame = load(store).set_index(["objective", "num_responses", "seed"])["reward/test"]
    a, b = (np.array([frame[name, 2, seed] for seed in range(3)]) for name in ("rpo_bwd", "kto"))
    assert f"{(a - b).mean():+.3f}" in shown
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert f"{interval.low:+.3f} … {interval.high:+.3f}" in shown
    assert shown.count("these checkpoints only") == 2
    assert len(re.findall(r"(?m)^list 4 city", shown)) == 2
    assert "on average over 3 answers" in shown


def test_compare_shows_the_prompts_that_part_two_runs_most(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ablate.results import load, load_eval

    frame = load(store)
    ids = [frame.loc[frame["objective"] == name, "id"].iloc[0] for name in ("dpo", "kto")]
    assert run(["compare", ids[0][:8], ids[1][:8], "--format", "csv", f"results_dir={store}"]) == 0
    assert "first_response" in capsys.readouterr().out
    assert run(["compare", ids[0][:8], ids[1][:8], "--top", "1", f"results_dir={store}"]) == 0
    shown = capsys.readouterr().out
    tables = [load_eval(store, [i]).query("split == 'test'").set_index("prompt") for i in ids]
    gap = (tables[0]["judge_score"] - tables[1]["judge_score"]).abs()
    assert gap.idxmax() in shown
    assert tables[0].loc[gap.idxmax(), "response"] in shown
    assert "other seeds may say otherwise" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["zz", "objective=dpo"], "neither the beginning"),
        (["0123456789abcdef", "objective=dpo,num_responses=2"], "fits no run"),
        (["objective=dpo", "objective=kto"], "num_responses.k (2, 4)"),
        (["objective=dpo,num_responses=2"], "required: B"),
        (["objective=dpo,num_responses=2", "objective=kto,num_responses=2", "--split", "x"],
         "valid, test, ood"),
        (["objective=dpo,num_responses=2", "objective=kto,num_responses=2", "--top", "-1"],
         "0 or more"),
    ],
)  # fmt: skip
def test_comparisons_that_make_no_sense(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert run(["compare", *words, f"results_dir={store}"]) == 2
    assert told in capsys.readouterr().err


def test_effects_name_the_factor_that_matters(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["effects", "--factors", "objective", "num_responses", f"results_dir={store}"]
    assert run([*words, "--figure", str(tmp_path / "fig")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.rstrip().endswith("*")]
    assert [line.split()[0] for line in lines] == ["objective"]
    assert (tmp_path / "fig.svg").exists()
    assert run(["effects", "--factors", "objective", f"results_dir={store}"]) == 2
    assert "num_responses" in capsys.readouterr().err


def test_effects_say_where_runs_share_policies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dpo", "kto"):
        for which in ("valid", "last"):
            for seed in (0, 1, 2):
                made = answers(5 + seed / 10, 10 * seed + len(which) + 100 * ord(name[0]))
                put(
                    tmp_path, made, objective=name, seed=seed,
                    training__select_checkpoint=which, policy=f"{name}{seed}",
                )  # fmt: skip
    factors = ["objective", "training.select_checkpoint"]
    assert run(["effects", "--factors", *factors, f"results_dir={tmp_path}"]) == 0
    assert "12 runs report policies that others report too" in capsys.readouterr().out
    alone = ["--where", "training.select_checkpoint=last", f"results_dir={tmp_path}"]
    assert run(["effects", "--factors", "objective", *alone]) == 0
    assert "policies that others" not in capsys.readouterr().out


def test_effects_name_settings_that_go_with_a_factor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, epochs in (("dpo", 1.0), ("kto", 2.0)):
        for k in (2, 4):
            for seed in (0, 1, 2):
                made = answers(5 + seed / 10, 10 * k + seed)
                put(
                    tmp_path, made, objective=name, num_responses=k, seed=seed,
                    training__epochs=epochs,
                )  # fmt: skip
    words = ["effects", "--factors", "objective", "num_responses", f"results_dir={tmp_path}"]
    assert run(words) == 0
    told = capsys.readouterr().out
    assert "an effect can be due to these:" in told
    assert "training.epochs: 1 for objective=dpo; 2 for objective=kto" in told


def test_from_real_runs_to_a_table(ablate: Command, tmp_path: Path) -> None:
    own = tmp_path / "own" / "sweep"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# Two objectives.\narms:\n  - objective: [dpo, ipo]\n    num_responses: 2\n"
        "seeds: [0, 1]\nanalysis:\n  rows: objective\n  baseline: dpo\n  margin: 0.25\n"
    )
    done = ablate("+sweep=mine", "-m", "--config-dir", str(tmp_path / "own"), *SMALL)
    assert done.returncode == 0, done.stderr
    # the file is edited after the sweep: what was fixed beforehand stays
    (own / "mine.yaml").write_text("# Edited.\narms: []\nanalysis: {margin: 9}\n")
    metrics = ["reward/test", "win_rate", "win_rate_lc", "kl", "repetition", "reward_correlation"]
    shown = ablate("table", "--sweep", "mine", "--metric", *metrics)
    assert shown.returncode == 0, shown.stderr
    text = " ".join(shown.stdout.split())
    assert "Differences to dpo" in text
    assert "no difference of more than 0.250" in text
    assert "12 test prompts" in text
    compared = ablate("compare", "objective=dpo", "objective=ipo", "--top", "1")
    assert compared.returncode == 0, compared.stderr
    assert "2 seeds, paired t test" in compared.stdout


@pytest.mark.parametrize("width", [40, 80, 100, 160])
def test_no_number_and_no_verdict_is_cut_off(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    """Arms that differ in five factors, on narrow terminals: names wrap, numbers stay whole."""
    root = tmp_path / "store"
    arms = [("dpo", "offline", "gold"), ("rpo_sqloo", "online", "explicit")]
    for (objective, collection, reward), mean in zip(arms, (5.0, 7.0), strict=True):
        for seed in (0, 1, 2):
            put(root, answers(mean, seed), objective=objective, collection=collection,
                reward=reward, seed=seed)  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(width))
    rate = config_of()["training"]["lr"]
    asked = "--rows objective collection reward training.lr --metric reward/test reward/ood kl/test"
    words = [*asked.split(), "--baseline", f"dpo offline gold {rate}"]
    assert run(["table", *words, f"results_dir={root}"]) == 0
    shown = capsys.readouterr().out
    # an ellipsis stands between the two ends of an interval and nowhere else
    assert set(re.findall(r"\S?…\S?", shown)) == {"…"}
    tables = shown.partition("Mean ±")[0]
    assert len(re.findall(r"[+-]\d+\.\d+ … [+-]\d+\.\d+ +(?:< 0\.001|\d\.\d{3}) ", tables)) == 3
    assert "better" in tables
    if width > 40:
        assert max(map(len, tables.splitlines())) <= width
