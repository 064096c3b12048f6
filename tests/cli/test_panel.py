"""The table at the end of a run."""

from pathlib import Path

from rich.console import Console

from ablate.cli.panel import metrics_table
from ablate.store.records import Record


def printed(counts: dict[str, int]) -> str:
    metrics = {
        metric: {
            split: {"mean": 0.5, "low": 0.5 - 0.25 * (n > 1), "high": 0.5 + 0.25 * (n > 1), "n": n}
            for split, n in counts.items()
        }
        for metric in ("reward_sft", "reward", "win_rate", "kl", "length")
    }
    console = Console(width=120)
    with console.capture() as captured:
        console.print(metrics_table(Record(Path("."), {"metrics": metrics})))
    return captured.get()


def test_a_split_of_one_prompt_has_no_interval() -> None:
    reward = next(line for line in printed({"test": 1, "ood": 9}).splitlines() if "trained" in line)
    assert reward.split() == ["judge", "reward,", "trained", "0.500", "0.500", "±", "0.250"]
