"""Threads of a run that names none."""

import os

import pytest
import torch

from ablate.config.compose import compose
from ablate.stages.compute import prepare_machine
from ablate.stages.cores import threads_each


@pytest.mark.parametrize(
    ("told", "cores", "processes", "expected"),
    [
        (None, 8, 1, 8), (None, 8, 2, 4), (None, 2, 4, 1),
        ("3", 8, 1, 3), ("3", 8, 2, 3), ("3", 8, 4, 2), ("64", 8, 1, 8),
        ("1", 8, 1, 1), ("3,2", 8, 1, 3), ("", 8, 1, 8), ("0", 8, 1, 8), ("many", 8, 1, 8),
    ],
)  # fmt: skip
def test_a_share_of_the_cores_and_no_more_than_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, told: str | None, cores: int, processes: int, expected: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert threads_each(processes) == expected


def test_a_run_obeys_the_environment_unless_it_names_its_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    try:
        prepare_machine(compose([]))
        assert torch.get_num_threads() == 2
        prepare_machine(compose(["runtime.threads=3"]))
        assert torch.get_num_threads() == 3
        # the processes of a run write what each has into the environment: asked again, it stays
        prepare_machine(compose([]), sharers=3)
        prepare_machine(compose([]), sharers=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
