"""`ablate ls`: the runs in the store, the newest last, and the last failures."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ablate.cli.store_words import split_words
from ablate.cli.stored import all_records
from ablate.cli.usage import STORE, Usage
from ablate.cli.whole import print_whole
from ablate.errors import ConfigError
from ablate.printed import fixed
from ablate.store import records
from ablate.store.records import Record

USAGE = Usage(
    "ablate ls [results_dir=DIR]",
    "Lists the runs in the store, the last finished last, and the last failures.",
    words=(STORE,),
    examples=("ablate ls", "ablate ls results_dir=results/reference | tail"),
)
FACTORS = ("objective", "K", "reward", "model", "dataset", "collection", "seed")
NUMBERS = ("K", "seed", "judge", "SFT", "win %", "KL")


def main(argv: Sequence[str]) -> int:
    """Prints one line per run; reads records only, no tables and no torch."""
    layout, words, flags = split_words(argv, USAGE)
    if words or flags:
        raise ConfigError(f"ls takes no further words (usage: {USAGE})")
    console = Console()
    found = all_records(layout)
    failed = list(records.failures(layout))
    if not found and not failed:
        console.print(f"no runs in {layout.root.resolve()}")
        return 0
    rows = [_row(record) for record in found]
    common = [title for title in FACTORS if len({row[title] for row in rows}) == 1]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in rows[0] if rows else []:
        if title not in common:
            table.add_column(title, no_wrap=True, justify="right" if title in NUMBERS else "left")
    for row in rows:
        table.add_row(*(text for title, text in row.items() if title not in common))
    if common:
        told = ", ".join(f"{title} {rows[0][title]}" for title in common)
        console.print(f"[dim]all runs: {told}[/]", highlight=False)
    if rows:
        print_whole(console, table)
    console.print(
        "[dim]judge reward on test (SFT: before training); `ablate show ID` tells more[/]"
    )
    for failure in failed:
        reason = failure.data["reason"].splitlines()[0]
        console.print(f"[red]failed[/] {failure.data['id'][:12]} {failure.data['name']}: {reason}")
    return 0


def _row(record: Record) -> dict[str, str]:
    """The columns of one run; what is the same in every row is said once, above the table."""
    config, metrics = record.data["config"], record.data["metrics"]
    mean = {metric: splits["test"]["mean"] for metric, splits in metrics.items()}
    status = record.data["status"]
    return {
        "id": record.short,
        "objective": config["objective"]["name"],
        "K": str(config["num_responses"]["k"]),
        "reward": config["reward"]["name"],
        "model": config["base_model"]["name"],
        "dataset": config["dataset"]["name"],
        "collection": config["collection"]["name"],
        "seed": str(config["seed"]["value"]),
        "status": status if record.revision == 1 else f"{status}, rev. {record.revision}",
        "judge": fixed(mean["reward"], 3),
        "SFT": fixed(mean["reward_sft"], 3),
        "win %": fixed(100 * mean["win_rate"], 1),
        "KL": fixed(mean["kl"], 2),
    }
