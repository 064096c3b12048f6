"""The commands that people type, in processes of their own, in an empty directory."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smallrun import SMALL

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_one_run_then_the_same_again_then_lists(ablate: Command, tmp_path: Path) -> None:
    first = ablate(*SMALL)
    assert first.returncode == 0, first.stderr
    for part in ("judge reward, SFT", "judge reward, trained", "win rate", "KL", "length",
                 "record", "next"):  # fmt: skip
        assert part in first.stdout
    # what a log shows while it waits: a line as each stage begins, and one when it ended
    told = first.stderr.splitlines()
    assert told[0] == "… SFT policy"
    assert [line for line in told if not line.startswith(("… ", "✓ "))] == []
    assert told.index("… policy") + 1 == next(
        n for n, line in enumerate(told) if line.startswith("✓ policy")
    )
    assert "✓" not in first.stdout
    # the store is the only thing that a run leaves
    assert [path.name for path in (tmp_path / "cwd").iterdir()] == ["results"]

    again = ablate(*SMALL)
    assert again.returncode == 0
    assert "in the store already" in again.stdout

    listed = ablate("ls")
    assert listed.returncode == 0
    identity = next((tmp_path / "cwd" / "results" / "runs").iterdir()).name
    assert identity[:12] in listed.stdout
    shown = ablate("show", identity[:6], "--answers")
    assert shown.returncode == 0, shown.stderr
    assert identity in shown.stdout
    # what was changed is told beside the default, what was not is left out
    told = [line.split() for line in shown.stdout.splitlines()]
    assert ["dataset.sizes.train", "24", "2048"] in told
    assert "objective.beta" not in shown.stdout
    assert "sha256" not in shown.stdout
    whole = ablate("show", identity[:6], "--all")
    told = [line.split() for line in whole.stdout.splitlines()]
    assert ["objective.beta", "0.01"] in told
    assert ["dataset.sizes.train", "24"] in told
    assert "sha256" in whole.stdout

    forced = ablate("force=true", *SMALL)
    assert forced.returncode == 0
    assert "the same weights, bit for bit, as revision 1" in forced.stdout


def test_the_mission_command_and_flags_anywhere(ablate: Command, tmp_path: Path) -> None:
    done = ablate("objective=simpo", "num_responses=4", "-m", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "reward, test" in done.stdout
    assert [path.name for path in (tmp_path / "cwd").iterdir()] == ["results"]
    both = ablate("seed=0,1", "-m", "objective=dpo,simpo", *SMALL, "num_responses=4")
    assert both.returncode == 0, both.stderr
    assert "in store" in both.stdout, "the run of the first command is found"
    rows = [line for line in both.stdout.splitlines() if line.startswith(("dpo ", "simpo "))]
    assert len(rows) == 2
    assert all("±" in row for row in rows)


def test_a_named_sweep(ablate: Command, tmp_path: Path) -> None:
    own = tmp_path / "own" / "sweep"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# Two grids.\narms:\n  - objective: [dpo, ipo]\n    num_responses: 2\n"
        "  - objective: rpo_bwd\n    num_responses: [2, 4]\nseeds: [0]\nmatch_only: prompts\n"
    )
    alone = ablate("+sweep=mine", "--config-dir", str(tmp_path / "own"), *SMALL)
    assert alone.returncode == 2
    assert "add -m" in alone.stderr
    done = ablate("+sweep=mine", "-m", "--config-dir", str(tmp_path / "own"), *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\ndone ") == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["objective=dppo"], "rpo_bwd"),
        (["objective=dpo", "objective.beta=0"], "objective.beta"),
        (["num_responses=32"], "pool"),
        (["num_responses=1"], "at least 2"),
        (["reward=labels"], "needs scores"),
        (["dataset=local", "dataset.path=missing.jsonl"], "missing.jsonl"),
        (["base_model=hf", "base_model.path=./nowhere"], "nowhere"),
        (["base_model.context_length=16"], "16"),
        (["results_dir=/proc/store"], "results_dir"),
        (["runtime.min_free_mb=999999999"], "min_free_mb"),
        (["-m", "objective=dpo,nope"], "nope"),
        # every reward of the sweep has the setting; that the default has none does not matter
        (
            ["-m", "reward=explicit,implicit", "reward.training.num_labels=9", "objective=modpo"],
            "objective=modpo needs further rewards",
        ),
        (["-m", "reward=explicit,gold", "reward.training.num_labels=9"], "no setting"),
        (["-m", "objective=dpo", "num_responses=4,64"], "pool"),
        (["+sweep=nope", "-m"], "nope"),
        (["hydra/launcher=nope", "-m"], "nope"),
        (["--nonsense"], "--nonsense"),
        (["objective"], "objective"),
        (["tracker=none", "ls"], "first word"),
        (["show", "ffff"], "results"),
        (["a b c"], "a b c"),
        (["objective=[dpo"], "objective"),
        (["training.lr=inf"], "finite"),
        (["num_responses=4.0"], "float"),
        (["-m", "hydra.launcher.workers=-1"], "at least 1"),
        (["-m", "hydra/sweeper=basic"], "hydra/sweeper=ablate"),
        (["-m", "results_dir=a,b"], "one results_dir"),
        (["results_dir="], "results_dir"),
        (["tracker=wandb"], "wandb login"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_message_before_any_work(
    ablate: Command, tmp_path: Path, words: list[str], told: str
) -> None:
    done = ablate(*words)
    assert done.returncode not in (0, 1), done.stdout
    assert done.stderr.startswith("ablate: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    left = [path for path in (tmp_path / "cwd").rglob("*") if path.is_file()]
    assert [path for path in left if "cache" not in path.parts] == []
    assert not (tmp_path / "cwd" / "results" / "runs").exists()


def test_the_traceback_is_shown_when_it_is_asked_for(ablate: Command) -> None:
    done = ablate("objective=dppo", env={"ABLATE_DEBUG": "1"})
    assert "Traceback" in done.stderr


def test_ls_shows_the_last_failure(ablate: Command, tmp_path: Path) -> None:
    sft = tmp_path / "cwd" / "results" / "stages" / "sft"
    sft.parent.mkdir(parents=True)
    sft.write_text("a file where a folder should be")
    done = ablate(*SMALL)
    assert done.returncode == 2
    assert "sft" in done.stderr
    listed = ablate("ls")
    assert "failed" in listed.stdout
    sft.unlink()
    assert ablate(*SMALL).returncode == 0
    assert "failed" not in ablate("ls").stdout


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("sweep", [False, True])
def test_an_interrupted_command_leaves_stages_whole_or_absent(
    tmp_path: Path, sent: signal.Signals, sweep: bool
) -> None:
    words = [word for word in SMALL if "sft.steps" not in word] + ["base_model.sft.steps=5000"]
    if sweep:
        words += ["-m", "objective=dpo,ipo"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ablate", *words],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    store = tmp_path / "results"
    deadline = time.monotonic() + 120
    while not list(store.glob("scratch/sft-*/work")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    if sent is signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does
    else:
        process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not (store / "runs").exists()
    assert list((store / "scratch").iterdir()) == []
    assert list((store / "claims").iterdir()) == []
    assert not list(store.glob("attempts/*/*"))
    for stage in store.glob("stages/*/*"):
        assert json.loads((stage / "manifest.json").read_text())


def test_help_explains_every_factor_with_its_levels(ablate: Command) -> None:
    from ablate.cli.help import EXAMPLES, FACTORS
    from ablate.config.levels import level_names

    done = ablate("--help")
    assert done.returncode == 0
    for factor in FACTORS:
        assert factor in done.stdout
        for level in level_names(factor):
            assert f"    {level} " in done.stdout
    for command, _ in EXAMPLES:
        assert command in done.stdout


def test_cfg_prints_the_composed_configuration(ablate: Command) -> None:
    done = ablate("objective=simpo", "--cfg", "job", "num_responses=6", "-p", "num_responses")
    assert done.returncode == 0
    assert "k: 6" in done.stdout


def test_completion_in_a_real_bash(tmp_path: Path) -> None:
    """Installs the completion as told in the help and presses tab, so to speak."""
    script = tmp_path / "complete.sh"
    script.write_text(
        'eval "$(ablate -sc install=bash)"\n'
        "complete_line() {\n"
        '  COMP_LINE="$1"; COMP_POINT=${#1}; COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]}-1))\n'
        "  COMPREPLY=(); $(complete -p ablate | sed 's/.*-F \\([^ ]*\\).*/\\1/') ablate\n"
        '  printf "%s\\n" "${COMPREPLY[@]}"\n}\n'
        'complete_line "ablate objective=rp"\n'
        'complete_line "ablate sh"\n'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    words = done.stdout.split()
    assert "objective=rpo_bwd" in words, done.stderr
    assert "show" in words


def test_sample_says_whose_responses_it_shows(ablate: Command, tmp_path: Path) -> None:
    drawn = ablate("sample", *SMALL)
    assert drawn.returncode == 0, drawn.stderr
    told = " ".join(drawn.stdout.split())
    assert "96 answers of the SFT policy to 24 prompts: mean judge score" in told
    rows = [
        {"prompt": f"[/INST] question {n}?", "chosen": f"yes [red] {n}", "rejected": f"no {n}"}
        for n in range(60)
    ]
    path = tmp_path / "prefs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    kept = [word for word in SMALL if not word.startswith(("dataset.", "base_model.sft.steps"))]
    # neither K nor a reward that the file can give: sampling uses none
    given = ablate("sample", *kept, "dataset=local", f"dataset.path={path}",
                   "base_model.sft.steps=2")  # fmt: skip
    assert given.returncode == 0, given.stderr
    told = " ".join(given.stdout.split())
    assert told.startswith(
        "first computed, and kept in results for runs that need the same: SFT policy "
        "(base_model=tiny, 2 steps of training), response pool (train), labels (train)"
    )
    # brackets are text, not markup
    assert "[/INST] question" in told
    assert "yes [red]" in told
    assert "responses of the dataset to 36 prompts: mean score in the dataset 0.50" in told
    assert "answers of the SFT policy" not in told


def test_sample_refuses_what_sampling_needs(ablate: Command) -> None:
    done = ablate("sample", "base_model=hf")
    assert done.returncode == 2
    assert "base_model=hf needs base_model.path" in done.stderr
