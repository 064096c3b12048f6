"""Which sweep is the newest: the one that was started last, whatever its files' times say."""

import os
from pathlib import Path

from ablate.store import files
from ablate.store.layout import Layout
from ablate.store.sweeps import sweeps


def test_a_copy_keeps_the_order_in_which_sweeps_were_started(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for name, started in (("aa", 30.0), ("bb", 10.0), ("cc", 20.0)):
        path = layout.sweeps / name / "sweep.json"
        files.write_json(path, {"time": started})
        # as a checkout leaves them: by name
        os.utime(path, (1000 + ord(name[0]), 1000 + ord(name[0])))
    assert [folder.name for folder in sweeps(layout)] == ["bb", "cc", "aa"]
