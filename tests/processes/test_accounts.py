"""Two accounts of one group launch the same runs into one store: each finds what the other made.

Needs root, to become other accounts. The interpreter may lie where only root may go: a mount
namespace of its own shows it to them. Skips where that is not allowed; in CI (`ABLATE_CI=1`) fails.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablate.config.compose import compose
from ablate.config.expand import Expansion
from ablate.errors import StoreError
from ablate.launch.sweep import freeze, prepare
from ablate.store.layout import Layout
from smallrun import SMALL

GROUP, ANNE, BEN = 54321, 54322, 54323
REPOSITORY = Path(__file__).resolve().parents[2]
Ablate = Callable[..., subprocess.CompletedProcess[str]]


def opened(work: Path) -> str:
    """Shell lines that show the interpreter and this repository to every account."""
    needed = {Path(sys.base_prefix), Path(sys.prefix), REPOSITORY}
    closed = {
        parent for path in needed for parent in path.parents if not parent.stat().st_mode & 0o001
    }
    hidden = [path for path in sorted(needed) if closed & set(path.parents)]
    first = {min(closed & set(path.parents)) for path in hidden}
    lines = ["set -e"]
    for number, path in enumerate(hidden):
        lines += [f"mkdir -p {work}/{number}", f"mount --bind {path} {work}/{number}"]
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {parent}" for parent in sorted(first)]
    for number, path in enumerate(hidden):
        lines += [f"mkdir -p {path}", f"mount --bind {work}/{number} {path}"]
    return "\n".join(lines)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of the group, as people share one: setgid."""
    with tempfile.TemporaryDirectory(prefix="ablate-group-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for account in (ANNE, BEN):
            (folder / str(account)).mkdir()
            os.chown(folder / str(account), account, account)
        (folder / "group").mkdir()
        os.chown(folder / "group", 0, GROUP)
        (folder / "group").chmod(0o2775)
        yield folder


@pytest.fixture
def ablate(place: Path) -> Ablate:
    """Runs `python -m ablate …` as an account, on the store of the group."""

    def run(account: int, *words: str) -> subprocess.CompletedProcess[str]:
        become = f"setpriv --reuid={account} --regid={account} --groups={GROUP}"
        script = f'{opened(place / "seen")}\numask 002\nexec {become} "$@"'
        home = place / str(account)
        return subprocess.run(
            ["unshare", "-m", "bash", "-c", script, "bash", sys.executable, "-m", "ablate",
             *words, f"results_dir={place}/group/results"],
            cwd=home, env={**os.environ, "HOME": str(home), "COLUMNS": "160"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    tried = run(BEN, "--version")
    if tried.returncode:
        if os.environ.get("ABLATE_CI"):
            pytest.fail(tried.stderr)
        pytest.skip(f"this machine lets us become nobody else ({tried.stderr[-300:].strip()})")
    return run


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux's unshare and setpriv")
def test_two_accounts_share_a_store(place: Path, ablate: Ablate) -> None:
    def go(account: int, *words: str) -> str:
        done = ablate(account, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    store = Layout(place / "group" / "results")
    go(ANNE, "objective=dpo,simpo", *SMALL, "-m")
    runs = {path.name for path in store.runs.iterdir()}
    stages = set(store.stages.glob("*/*"))
    assert len(runs) == 2
    # Ben asks for the same, and then for an objective more
    assert "2 distinct runs, 2 in the store" in go(BEN, "plan", "objective=dpo,simpo", *SMALL, "-m")
    go(BEN, "objective=dpo,simpo", *SMALL, "-m")
    assert set(store.stages.glob("*/*")) == stages, "nothing is computed again"
    go(BEN, "objective=dpo,ipo", *SMALL, "-m")
    more = {path.name for path in store.runs.iterdir()}
    assert len(more) == 3
    assert more > runs
    closed = [p for p in store.root.rglob("*") if store.sweeps not in [p, *p.parents]]
    assert [p for p in closed if not p.stat().st_mode & 0o040] == []
    # whoever takes over or frees what another made has to write there
    assert [p for p in closed if p.is_dir() and not p.stat().st_mode & 0o020] == []
    # each sees the records of both, and the own launch; folders stay private
    (hers,) = [path for path in store.sweeps.iterdir() if path.stat().st_uid == ANNE]
    his = [path.name for path in store.sweeps.iterdir() if path.stat().st_uid == BEN]
    assert f"{hers.name}.{BEN}" in his
    assert all(path.stat().st_mode & 0o077 == 0 for path in store.sweeps.iterdir())
    for account, sweep in ((ANNE, hers.name), (BEN, f"{hers.name}.{BEN}")):
        listed = go(account, "ls")
        assert all(identity[:12] in listed for identity in more)
        assert "2 runs: 2 done" in go(account, "status", sweep)
    refused = ablate(BEN, "cache", "prune")
    assert refused.returncode == 2
    assert "of other accounts" in refused.stderr


def test_of_two_that_launch_at_the_same_moment_one_is_asked_to_repeat(place: Path) -> None:
    """The folder came to be between planning and freezing, and is another's."""
    if os.getuid() != 0:
        pytest.skip("only root can become another account")
    words = [*SMALL, f"results_dir={place}/group/results"]
    sweep = prepare(Expansion([compose(words)], [{}]))
    sweep.folder.mkdir(mode=0o700, parents=True)
    os.chown(sweep.folder, ANNE, GROUP)
    child = os.fork()
    if child == 0:
        os.setgroups([GROUP])
        os.setresgid(BEN, BEN, BEN)
        os.setresuid(BEN, BEN, BEN)
        try:
            freeze(sweep, ["seed=0"], "local", {})
        except StoreError as error:
            os._exit(0 if "another account" in str(error) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert list(sweep.folder.iterdir()) == []
