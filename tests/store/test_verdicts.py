"""Verdicts on disk: whole or not there, whoever writes, whoever is killed, whatever was damaged."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.errors import StoreError
from ablate.store import verdicts
from ablate.store.verdicts import Verdicts


def write(folder: Path, entries: dict[str, float]) -> None:
    writer = Verdicts(folder)
    for key, value in entries.items():
        writer.add(key, value)
    writer.close()


def test_what_was_added_is_read_by_others_at_once(tmp_path: Path) -> None:
    assert Verdicts(tmp_path / "no").read() == {}
    writer = Verdicts(tmp_path)
    writer.add("a", 0.1)
    assert Verdicts(tmp_path).read() == {"a": 0.1}, "before it is closed"
    writer.add("b", -1e-300)
    writer.close()
    assert Verdicts(tmp_path).read() == {"a": 0.1, "b": -1e-300}
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]
    Verdicts(tmp_path / "silent").close()
    assert not (tmp_path / "silent").exists(), "nothing said, nothing written"


@given(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=8))
def test_any_key_and_number_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, float]
) -> None:
    folder = tmp_path_factory.mktemp("verdicts")
    write(folder, entries)
    assert Verdicts(folder).read() == entries


def test_of_two_verdicts_the_older_counts_for_every_reader(tmp_path: Path) -> None:
    older, newer = Verdicts(tmp_path), Verdicts(tmp_path)
    older.add("a", 1.0)
    newer.add("a", 2.0)
    newer.close()
    assert Verdicts(tmp_path).read() == {"a": 1.0}
    older.close()
    assert Verdicts(tmp_path).read() == {"a": 1.0}


def test_any_damage_costs_only_the_lines_it_hits(tmp_path: Path) -> None:
    entries = {f"key{number}": float(number) for number in range(5)}
    write(tmp_path, entries)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        read = Verdicts(tmp_path).read()
        assert len(read) >= 3, "a line, or two where the border between them is hit"
        assert read.items() <= entries.items(), f"no false verdict by damage at {place}"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert Verdicts(tmp_path).read().items() <= entries.items()
        assert len(Verdicts(tmp_path).read()) >= whole[:size].count(b"\n")
    path.write_bytes(b'\xff\xfe\n[]\n3\nnull\n{"key": "x"}\n' + whole)
    assert Verdicts(tmp_path).read() == entries


def test_many_files_become_one_and_nothing_is_lost(tmp_path: Path) -> None:
    alive = Verdicts(tmp_path)
    alive.add("open", 0.0)
    for number in range(80):
        write(tmp_path, {f"key{number}": float(number), "same": float(number)})
    alive.add("still", 1.0)
    read = Verdicts(tmp_path).read()
    assert read == {
        **{f"key{number}": float(number) for number in range(80)},
        "same": 0.0, "open": 0.0, "still": 1.0,
    }  # fmt: skip
    assert len(list(tmp_path.iterdir())) <= verdicts.MERGE_ABOVE + 2
    alive.close()
    assert Verdicts(tmp_path).read() == read


WRITER = """
import sys
from pathlib import Path
from ablate.store.verdicts import Verdicts
name, folder = sys.argv[1], Path(sys.argv[2])
known = {}
for number in range(120):
    writer = Verdicts(folder)
    writer.add(f"{name}-{number}", float(number))
    writer.close()
    known[f"{name}-{number}"] = float(number)
    assert known.items() <= Verdicts(folder).read().items(), number
"""


def test_writers_readers_and_mergers_at_once_lose_nothing(tmp_path: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", WRITER, name, str(tmp_path)]) for name in ("a", "b")
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    expected = {f"{name}-{number}": float(number) for name in "ab" for number in range(120)}
    assert Verdicts(tmp_path).read() == expected
    assert len(list(tmp_path.iterdir())) < 100


ENDLESS = """
import itertools, sys
from pathlib import Path
from ablate.store.verdicts import Verdicts
writer = Verdicts(Path(sys.argv[1]))
for number in itertools.count():
    writer.add(f"key{number}", float(number))
"""


def test_a_killed_writer_leaves_whole_verdicts_and_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(Verdicts(tmp_path).read()) < 100 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    read = Verdicts(tmp_path).read()
    assert len(read) >= 100
    assert read == {f"key{number}": float(number) for number in range(len(read))}
    write(tmp_path, {"after": 1.0})
    assert Verdicts(tmp_path).read() == {**read, "after": 1.0}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file.*cannot be written"):
        Verdicts(tmp_path / "file").add("a", 1.0)
