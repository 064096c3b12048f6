"""A store is data: reading a stranger's executes nothing, and no secret is written into one."""

import ast
import os
import pickle
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ablate.config import legality
from ablate.config.compose import compose
from ablate.config.expand import Expansion
from ablate.config.launcher import slurm_config
from ablate.config.run import validate
from ablate.errors import ConfigError
from ablate.launch.sweep import freeze, prepare
from ablate.store import records
from ablate.store.layout import Layout
from ablate.store.provenance import DIFF_BYTES, keep_diff, provenance
from ablate.store.secrets import scrub
from madestore import answers, put
from smallrun import SMALL

SOURCE = Path(__file__).resolve().parents[2] / "src"
SECRETS = {"MY_SERVICE_TOKEN": "hunter2-of-the-service", "WANDB_API_KEY": "0" * 36 + "beef",
           "HF_TOKEN": "hf_" + "x" * 20}  # fmt: skip
Command = Callable[..., subprocess.CompletedProcess[str]]


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_reading_a_strangers_store_executes_nothing(ablate: Command, tmp_path: Path) -> None:
    root, hit = tmp_path / "store", tmp_path / "hit"
    layout = Layout(root)
    record = put(root, answers(5.0, 0), objective="dpo")
    sweep = prepare(Expansion([compose([*SMALL, f"results_dir={root}"])], [{}]))
    freeze(sweep, ["test"], "slurm", {})
    bomb = pickle.dumps(Bomb(hit))
    pickle.loads(bomb)
    assert hit.is_dir(), "it would go off"
    hit.rmdir()
    jobs = sweep.folder / "slurm" / "1_0"
    jobs.mkdir(parents=True)
    for path in (
        jobs / "1_0_submitted.pkl", jobs / "1_0_0_result.pkl", record.path / "extra.pkl",
        record.path / "train.pickle", layout.root / "cache.pkl", layout.stages / "sft" / "x.bin",
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bomb)
    code = f"import os; os.mkdir({str(hit)!r})\n"
    for name in ("sitecustomize.py", "__init__.py", "conftest.py"):
        for folder in (root, sweep.folder, record.path):
            (folder / name).write_text(code)
    (root / "config.yaml").write_text(f"!!python/object/apply:os.mkdir [{str(hit)!r}]\n")
    for words in (["ls"], ["show", record.short], ["table"], ["status"], ["cache"], ["curve"],
                  ["logs", next(iter(sweep.plans))[:10]], ["cache", "prune"]):  # fmt: skip
        done = ablate(*words, f"results_dir={root}")
        assert "Traceback" not in done.stderr, done.stderr
        assert not hit.exists(), words


def test_what_reads_stores_has_no_way_to_execute() -> None:
    """No unpickling, no evaluation of text; torch loads nothing of ours but safetensors."""
    for room in ("store", "results", "analysis", "launch", "cli", "stages", "training", "models"):
        for path in (SOURCE / "ablate" / room).rglob("*.py"):
            for item in ast.walk(ast.parse(path.read_text())):
                names: list[str] = []
                if isinstance(item, ast.Import):
                    names = [alias.name for alias in item.names]
                elif isinstance(item, ast.ImportFrom):
                    names = [item.module or ""]
                elif isinstance(item, ast.Call):
                    names = [f"{ast.unparse(item.func)}()"]
                for name in names:
                    assert name.split(".")[0] not in ("pickle", "cloudpickle", "dill"), path
                    assert name not in ("eval()", "exec()", "torch.load()", "yaml.load()"), path


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(_keys(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(_keys(item) for item in value))
    return set()


def test_a_frozen_run_names_no_importable_target(tmp_path: Path) -> None:
    run = compose([*SMALL, f"results_dir={tmp_path}", "judge=world", "reward=implicit"])
    plain = run.model_dump(mode="json")
    assert not {key for key in _keys(plain) if key.startswith("_")}
    for where in (plain, plain["objective"], plain["judge"]):
        where["_target_"] = "os.mkdir"
        with pytest.raises(ConfigError, match="_target_"):
            validate(plain)
        del where["_target_"]
    assert validate(plain) == run


def test_no_secret_of_the_environment_reaches_a_file(ablate: Command, tmp_path: Path) -> None:
    """A whole run with its offline mirror, and one that fails with the address of a stranger."""
    root = tmp_path / "store"
    words = [word for word in SMALL if not word.startswith("tracker")]
    mirrored = [*words, "tracker=wandb_offline", f"results_dir={root}"]
    assert ablate(*mirrored, env=SECRETS).returncode == 0
    record = next(records.records(Layout(root)))
    assert record.data["tracker_id"]
    found = [path for path in root.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in found)
    for path in found:
        content = path.read_bytes()
        for name, value in SECRETS.items():
            assert value.encode() not in content, (name, path)


def test_folders_of_jobs_are_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        sweep = prepare(Expansion([compose([*SMALL, f"results_dir={tmp_path}"])], [{}]))
        freeze(sweep, ["test"], "local", {"workers": 1, "max_restarts": 0})
    finally:
        os.umask(before)
    assert stat.S_IMODE(sweep.folder.stat().st_mode) == 0o700


def test_records_and_stages_can_be_shared_as_the_umask_says(tmp_path: Path) -> None:
    """Others of a group read what was published; what jobs print and are told stays private."""
    code = (
        "import os, sys; os.umask(0o027)\n"
        "from pathlib import Path; from ablate.store import files\n"
        "with files.scratch(Path(sys.argv[1]) / 's', 'x') as private:\n"
        "    (private / 'data').write_text('x'); files.write_manifest(private)\n"
        "    files.publish(private, Path(sys.argv[1]) / 'there')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "there").iterdir()}
    assert modes == {"data": 0o640, "manifest.json": 0o640}
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o750


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("judge.url=https://me:pa55word@host/v1", "pa55word"),
        ("git remote https://ghp_abcdefghijklmnopqrstuv@github.com/a/b", "ghp_abc"),
        ("cannot load: token hf_abcdefghijklmnopqrst is invalid", "hf_abc"),
        ("Authorization: Bearer abc.def-ghi", "abc.def"),
        ("+model.api_key=topsecret", "topsecret"),
        ("--password 'open sesame'", "open"),
        ("key sk-proj-abcdefghijklmnop refused", "sk-proj"),
        ("https://host/x?access_token=abc&user=me", "=abc"),
        ('{"api_key": "topsecret"}', "topsecret"),
        ("{'password': 'topsecret', 'user': 'me'}", "topsecret"),
        (r"{\"api_key\": \"topsecret\"}", "topsecret"),
        ("export HF_TOKEN=topsecret", "topsecret"),
        ("MY_SERVICE_TOKEN: topsecret", "topsecret"),
        ("JUDGE_KEY=0123456789abcdef", "0123456789"),
        ("GET https://host/v1?token=topsecret&x=1", "topsecret"),
        ('{"token": "topsecret"}', "topsecret"),
        ("login(token='0123456789abcdef')", "0123456789"),
        ("huggingface-cli login --token topsecret", "topsecret"),
        ("AWS_SECRET_ACCESS_KEY=top/secret+x", "top/secret"),
        ("https://b.s3.amazonaws.com/x?X-Amz-Signature=0a1b2c&y=1", "0a1b2c"),
        ("x?X-Amz-Security-Token=topsecret", "topsecret"),
        ("key AIzaSy" + "a1-b2_" * 6, "AIza"),
        ("nvapi-" + "a1b2" * 6, "a1b2"),
        ("refused: gsk_" + "a1b2" * 6, "a1b2"),
        ("jwt eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abc-def", "abc-def"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
        ("Authorization: Basic bWU6cGFzcw==", "bWU6"),
    ],
)
def test_secrets_are_scrubbed(text: str, hidden: str) -> None:
    assert hidden not in scrub(text)
    assert "***" in scrub(text)
    assert scrub(scrub(text)) == scrub(text)


@pytest.mark.parametrize(
    "text",
    ["judge.api_key_env=JUDGE_KEY", "base_model.path=/models/a//b", "https://host:80/v1", "seed=3",
     "objective.beta=0.1", "max_new_tokens: 16", "me@host", "num_tokens=12 tokens_per_device=8",
     "pad_token='<pad>' eos_token: </s>", '{"eos_token": "</s>", "max_token": 3}', "PAD_TOKEN=0",
     "aggregation=token_mean objective.token_kl.weight=0.1", '{"token_kl": "k3", "by_token": "x"}',
     "Unexpected token: }", "export HF_TOKEN=$(cat ~/.token)", 'HF_TOKEN="$HF_TOKEN"',
     '{"api_key": null, "password": ""}', "per token: 1.5", "set HF_TOKEN or WANDB_API_KEY",
     "monkey=1 keys: [a]", "?tokens=3", "token = 5"],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrub(text) == text


def test_command_lines_and_causes_are_written_without_secrets(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    sweep = prepare(Expansion([compose([*SMALL, f"results_dir={tmp_path}"])], [{}]))
    freeze(sweep, ["tracker.entity=hf_abcdefghijklmnopqrst"], "local", {})
    attempt = records.new_attempt(layout, "a" * 32)
    records.write_failure(attempt, "run", "401 at https://me:pa55word@host", None)
    written = "".join(p.read_text() for p in tmp_path.rglob("*.json"))
    assert "hf_abc" not in written
    assert "pa55word" not in written


def test_a_setting_that_holds_a_secret_is_refused_and_not_repeated() -> None:
    run = compose(["dataset=local", "dataset.path=https://me:pa55word@host/data.jsonl"])
    with pytest.raises(ConfigError, match=r"dataset\.path holds what looks like a key") as caught:
        legality.check(run)
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"setup": ["module load cuda", "export HF_TOKEN=topsecret"]}, "setup"),
        ({"comment": "key hf_topsecretabcdefghijkl"}, "comment"),
        ({"additional_parameters": {"export": "ALL,WANDB_API_KEY=topsecret"}},
         "additional_parameters.export"),
        ({"additional_parameters": {"password": "topsecret"}}, "additional_parameters.password"),
        ({"stages": {"policy": {"setup": ["export HF_TOKEN=topsecret"]}}}, "stages.policy.setup"),
    ],
)  # fmt: skip
def test_a_launcher_that_would_write_down_a_secret_is_refused(
    settings: dict[str, Any], where: str
) -> None:
    with pytest.raises(ConfigError, match=rf"hydra\.launcher\.{where} holds what") as caught:
        slurm_config(slurm_settings() | settings, ["policy"])
    assert "topsecret" not in str(caught.value)
    assert "source ~/" in str(caught.value)


def test_a_launcher_may_read_a_secret_from_where_it_lies() -> None:
    lines = ["source ~/.my_keys", "export HF_TOKEN=$(cat ~/.hf)", "module load cuda/12"]
    assert slurm_config(slurm_settings() | {"setup": lines}, []).setup == lines


def slurm_settings() -> dict[str, Any]:
    plain = yaml.safe_load((SOURCE.parent / "conf/hydra/launcher/slurm.yaml").read_text())
    del plain["_target_"]
    return dict(plain)


def test_the_origin_of_a_result_tells_no_remote_and_nothing_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    found = provenance()
    known = {"git", "versions", "python", "host", "cpu", "cores", "system", "scheduler"}
    assert set(found) == known
    assert found["scheduler"] is None
    if found["git"] is not None:
        assert set(found["git"]) == {"commit", "dirty_files", "diff_sha256"}
    for name, value in (
        ("SLURM_JOB_ID", "71"), ("SLURM_ARRAY_JOB_ID", "70"), ("SLURM_ARRAY_TASK_ID", "3"),
        ("SLURM_RESTART_COUNT", "2"), ("SLURM_JOB_ACCOUNT", "of-somebody"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    assert provenance()["scheduler"] == {"job": "70", "array_task": 3, "restart": 2}


def test_the_difference_that_is_kept_is_that_of_the_code_that_ran(tmp_path: Path) -> None:
    """A run from a checkout of its own, which is edited before it starts and while it trains."""
    tree, root = tmp_path / "tree", tmp_path / "store"
    no_caches = shutil.ignore_patterns("__pycache__")
    for name in ("src", "conf", "sweeps"):
        shutil.copytree(SOURCE.parent / name, tree / name, symlinks=True, ignore=no_caches)
    git = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@y"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    edited = tree / "src" / "ablate" / "errors.py"
    with edited.open("a") as file:
        file.write("# edited before, with HF_TOKEN=topsecret\n")
    code = (
        "import sys; from pathlib import Path\n"
        "from ablate.stages.complete import complete; from ablate.stages.execute import Silent\n"
        "from ablate.stages.graph import plan; from ablate.config.compose import compose\n"
        "from ablate.store.layout import Layout; import ablate\n"
        "assert ablate.__file__.startswith(sys.argv[2]), ablate.__file__\n"
        "class Edits(Silent):\n"
        "    def start(self, stage):\n"
        "        open(sys.argv[2] + '/src/ablate/errors.py', 'a').write('# edited while it ran')\n"
        "        return super().start(stage)\n"
        "run, layout = compose(sys.argv[3:]), Layout(Path(sys.argv[1]))\n"
        "complete(plan(run, layout), layout, Edits())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-c", code, str(root), str(tree), *SMALL, f"results_dir={root}"]
    subprocess.run(words, check=True, env=environment, cwd=tmp_path)
    (path,) = (root / "diffs").iterdir()
    text = path.read_text()
    assert "+# edited before, with HF_TOKEN=***" in text
    assert "edited while it ran" in edited.read_text()
    assert "edited while it ran" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (record,) = records.records(Layout(root))
    assert record.data["provenance"]["git"]["dirty_files"] == ["src/ablate/errors.py"]
    assert record.data["provenance"]["git"]["diff_sha256"] == path.stem
    # what is handed on holds neither
    subprocess.run(
        [sys.executable, "-m", "ablate", "compact", "--to", str(tmp_path / "copy"),
         f"results_dir={root}"], check=True, capture_output=True,
    )  # fmt: skip
    assert not (tmp_path / "copy" / "diffs").exists()


def test_a_very_long_difference_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = {"commit": "c", "dirty_files": ["x"], "diff_sha256": "d" * 64}
    monkeypatch.setattr("ablate.store.provenance._origin", lambda: ({"git": git}, b"+x\n" * 10**6))
    keep_diff(Layout(tmp_path))
    (path,) = (tmp_path / "diffs").iterdir()
    assert path.stat().st_size < DIFF_BYTES + 100
    assert "cut here" in path.read_text()[-60:]
