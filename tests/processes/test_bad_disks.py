"""A disk that fills up, or turns read-only, in the middle of a sweep: real file systems, mounted.

Needs root and loop devices. Where mounting is not allowed the tests are skipped and say so; in CI
(`ABLATE_CI=1`) they fail instead.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablate.store import files, records
from ablate.store.layout import Layout
from smallrun import SMALL

ARMS = ["objective=dpo,ipo", "hydra.launcher.workers=1", "runtime.min_free_mb=0"]


class Disk:
    """An ext4 file system of its own, in a file."""

    def __init__(self, folder: Path) -> None:
        self.image, self.place = folder / "disk.img", folder / "disk"
        self.place.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(96 * 2**20)
        self.ask("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount()

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def mount(self) -> None:
        self.ask("mount", "-o", "loop,errors=remount-ro", str(self.image), str(self.place))

    def fill(self) -> None:
        """Leaves no room at all."""
        handle = os.open(self.place / "filler", os.O_WRONLY | os.O_CREAT)
        try:
            for size in (2**20, 2**12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        os.write(handle, b"x" * size)
        finally:
            os.close(handle)

    def break_down(self) -> None:
        """The file system finds an error and turns read-only at once, whatever is open."""
        device = self.ask("findmnt", "-no", "SOURCE", str(self.place)).strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("a test")
        with pytest.raises(OSError, match="Read-only"):
            (self.place / "probe").touch()

    def repair(self) -> None:
        """Checked and mounted again, as an administrator would."""
        self.ask("umount", str(self.place))
        # 1: errors were corrected
        done = subprocess.run(["e2fsck", "-fy", str(self.image)], capture_output=True, check=False)
        assert done.returncode in (0, 1), done.stdout
        self.mount()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    try:
        found = Disk(tmp_path)
    except OSError as error:
        if os.environ.get("ABLATE_CI"):
            raise
        pytest.skip(f"this machine lets us mount nothing ({error})")
    yield found
    for _ in range(50):
        with contextlib.suppress(OSError):
            found.ask("umount", str(found.place))
            return
        time.sleep(0.2)


def start(disk: Disk, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ablate", *words, f"results_dir={disk.place / 'store'}"],
        cwd=disk.image.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip


def told(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=240)[0]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 200
    while not there():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


def whole(layout: Layout) -> None:
    """Whatever is published is what it was."""
    for path in [*layout.runs.glob("*/*"), *layout.stages.glob("*/*")]:
        assert files.damage(path) is None, path


@pytest.mark.parametrize("trouble", ["No space left on device", "Read-only file system"])
def test_a_sweep_whose_disk_fails_ends_clearly_and_retry_completes_it(
    disk: Disk, trouble: str
) -> None:
    layout = Layout(disk.place / "store")
    sweep = start(disk, *SMALL, *ARMS, "-m")
    until(lambda: any(layout.stages.glob("pool/*/manifest.json")), sweep)
    if trouble.startswith("No space"):
        disk.fill()
    else:
        disk.break_down()
    said = told(sweep)
    assert sweep.returncode == 1, said
    assert trouble in said
    assert str(layout.root) in said
    assert "Traceback" not in said
    assert "unexpected" not in said
    whole(layout)
    assert list(records.records(layout)) == []

    # looking at the store needs no room
    looked = start(disk, "status")
    told(looked)
    assert looked.returncode in (0, 1)

    if trouble.startswith("No space"):
        (disk.place / "filler").unlink()
    else:
        disk.repair()
    again = start(disk, "retry")
    said = told(again)
    assert again.returncode == 0, said
    whole(layout)
    assert {record.data["status"] for record in records.records(layout)} == {"done"}
    assert [record.revision for record in records.records(layout)] == [1, 1]
    assert len(list((layout.stages / "sft").iterdir())) == 1, "what was published before is kept"


def test_a_single_run_on_a_full_disk_says_so(disk: Disk) -> None:
    layout = Layout(disk.place / "store")
    run = start(disk, *SMALL, "runtime.min_free_mb=0")
    until(lambda: any(layout.stages.glob("pool/*/manifest.json")), run)
    disk.fill()
    said = told(run)
    assert run.returncode != 0
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert "unexpected" not in said
    whole(layout)
    (disk.place / "filler").unlink()
    again = start(disk, *SMALL, "runtime.min_free_mb=0")
    told(again)
    assert again.returncode == 0
    (record,) = records.records(layout)
    assert json.loads((record.path / "record.json").read_text())["status"] == "done"
