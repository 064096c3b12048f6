"""Whatever process dies wherever, the store ends as if none had: `make chaos-test`.

`ABLATE_CHAOS_KILLS` is the number of random kills (40).
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from storm import LAUNCHERS, Storm, harvest, litter, strike, undisturbed

from ablate.store import crash, files, records
from ablate.store.verdicts import MERGE_ABOVE, Verdicts
from smallrun import SMALL

#: reached by other means than a sweep
ASIDE = {
    "prune": ["removal-before-rename", "removal-after-rename"],
    "failure": ["failure-written"],
    "verdicts": ["verdicts-before-rename", "verdicts-after-rename",
                 "verdicts-before-merge", "verdicts-after-merge"],
}  # fmt: skip
IN_SWEEPS = [n for n in crash.POINTS if not any(n in names for names in ASIDE.values())]
KILLED = -signal.SIGKILL


@pytest.fixture
def armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of armed points; only processes that are started here see it."""
    folder = tmp_path / "armed"
    crash.arm(folder)
    return folder


class Weather:
    """What makes rare points come up: interrupted trainings and a damaged stage."""

    def __init__(self, armed: Path) -> None:
        self.armed, self.random = armed, random.Random(0)
        self.damaged = False
        self.asked: set[int] = set()
        self._next = 0.0

    def __call__(self, storm: Storm) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.random.uniform(0.05, 0.4)
        if not self.damaged:
            for path in (storm.layout.stages / "sft").glob("*/train.parquet"):
                content = bytearray(path.read_bytes())
                content[len(content) // 2] ^= 1
                path.write_bytes(content)
                self.damaged = True
                break
        if any(path.name.startswith("saved-") for path in self.armed.iterdir()):
            for pid in set(storm.trainers()) - self.asked:
                # asked to make room, as a scheduler would
                self.asked.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR2)


def test_a_kill_at_every_named_point(tmp_path: Path, armed: Path) -> None:
    calm = undisturbed(tmp_path / "calm")
    crash.arm(armed, *IN_SWEEPS)
    storm = Storm(tmp_path / "storm", **{crash.VARIABLE: str(armed)})
    storm.rage(Weather(armed))
    assert [path.name for path in armed.iterdir()] == [], "points that no sweep reached"
    assert harvest(storm) == calm

    # the damaged stage was set aside, computed again, and can go
    crash.arm(armed, *ASIDE["prune"])
    codes = [storm.ablate("cache", "prune", "--yes").returncode for _ in range(3)]
    assert codes == [KILLED, KILLED, 0]
    assert not list(storm.layout.stages.glob("*/*.damaged-*"))

    # a run that can only fail leaves its cause, or nothing
    crash.arm(armed, *ASIDE["failure"])
    model = tmp_path / "model"
    shutil.copytree(next(storm.layout.stages.glob("sft/*/model")), model)
    os.truncate(model / "model.safetensors", 1000)
    hopeless = [*SMALL, "base_model=hf", f"base_model.path={model}"]
    assert storm.ablate(*hopeless).returncode == KILLED
    assert storm.ablate(*hopeless).returncode in (1, 2)
    failures = list(records.failures(storm.layout))
    assert len(failures) == 1
    assert "SFT policy" in failures[0].data["reason"]
    assert harvest(storm) == calm

    # the same command once more finds all, and clears what the dead left behind
    assert storm.start().wait(300) == 0
    assert litter(storm) == []
    assert harvest(storm) == calm
    assert storm.starts > LAUNCHERS, "launchers were among the dead"


WRITER = """
import sys
from pathlib import Path
from ablate.store.verdicts import Verdicts
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    verdicts = Verdicts(Path(sys.argv[1]))
    verdicts.add(f"key-{number}", number / 7)
    verdicts.close()
"""


def test_no_verdict_is_lost_to_a_kill(tmp_path: Path, armed: Path) -> None:
    folder = tmp_path / "verdicts"

    def write(first: int, last: int) -> int:
        return subprocess.run(
            [sys.executable, "-c", WRITER, str(folder), str(first), str(last)],
            env={**os.environ, crash.VARIABLE: str(armed)}, check=False,
        ).returncode  # fmt: skip

    def said(count: int) -> bool:
        return Verdicts(folder).read() == {f"key-{n}": n / 7 for n in range(count)}

    last = 2 * MERGE_ABOVE
    for place, name in enumerate(ASIDE["verdicts"][:2]):
        crash.arm(armed, name)
        assert write(place, last) == KILLED
        assert said(place + 1)
    for name in ASIDE["verdicts"][2:]:
        crash.arm(armed, name)
        assert write(2, last) == KILLED
    assert write(2, last) == 0
    assert said(last)


def test_random_kills(tmp_path: Path) -> None:
    kills = int(os.environ.get("ABLATE_CHAOS_KILLS", "40"))
    found = strike(tmp_path, kills)
    assert sum(found["kills"].values()) == kills
    assert "job" in found["kills"]


def test_the_points_are_idle_without_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash.arm(tmp_path, "json-before-rename")
    monkeypatch.delenv(crash.VARIABLE, raising=False)
    files.write_json(tmp_path / "x.json", 1)
    assert (tmp_path / "json-before-rename").exists()


def test_every_point_has_its_place_in_the_source() -> None:
    source = Path(crash.__file__).resolve().parents[1]
    text = "".join(path.read_text() for path in source.rglob("*.py") if path.name != "crash.py")
    for name in crash.POINTS:
        assert text.count(f'crash.point("{name}")') == 1, name
