"""Progress where there is no terminal."""

import io
import time

import pytest
from rich.console import Console

from ablate.cli.progress import StageBars, StageLines, open_display
from ablate.config.compose import compose
from ablate.stages.stage import Stage


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage("policy", "policy", {}, {}, compose([]))


def test_a_log_has_few_lines_however_often_a_stage_reports(stage: Stage) -> None:
    stream = io.StringIO()
    display = StageLines(stream, every=0.05)
    report = display.start(stage)
    began = time.monotonic()
    for step in range(100):
        report(step, 100, {"loss": 0.5})
        time.sleep(0.002)
    took = time.monotonic() - began
    display.finish(stage, took, found=False)
    first, *between, last = stream.getvalue().splitlines()
    assert first == "… policy"
    assert last.startswith("✓ policy ")
    assert 1 <= len(between) <= took / 0.05
    assert all(line.startswith("  policy: ") and "of 100 after" in line for line in between)
    assert all(line.endswith("loss 0.500") for line in between)


def test_bars_are_for_terminals_only() -> None:
    assert isinstance(open_display(Console(force_terminal=True)), StageBars)
    assert isinstance(open_display(Console(file=io.StringIO())), StageLines)
    # ranks that assist print nothing at all
    assert isinstance(open_display(Console(file=io.StringIO(), quiet=True)), StageBars)
