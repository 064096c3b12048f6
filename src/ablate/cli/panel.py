"""The panel that ends a run: what came out, how sure that is, where it lies, what to type next."""

from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ablate.printed import fixed
from ablate.stages.complete import Outcome
from ablate.store.records import Record

#: objectives that the next step compares
OTHERS = "dpo,simpo,rpo_bwd"
SPLIT_TITLES = {"valid": "valid", "test": "test", "ood": "out of distribution"}


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Prints the result of a run that ended, or that was in the store already."""
    record = outcome.record
    console.print(Panel(_body(outcome), title=_title(record), expand=False, padding=(1, 2)))
    if record.data["status"] == "diverged":
        stop = record.data["divergence"]
        console.print(
            f"[yellow]diverged[/] at step {stop['step']}: {stop['reason']}. This is a result: it "
            f"is scored at its last finite checkpoint (step {record.data['policy']['step']})."
        )
    if outcome.same_weights is not None:
        same = (
            "the same weights, bit for bit, as"
            if outcome.same_weights
            else ("[yellow]other weights than[/]")
        )
        console.print(f"Revision {record.revision}: {same} revision {record.revision - 1}.")


def _title(record: Record) -> str:
    return f"[bold]{record.data['name']}[/]"


def _body(outcome: Outcome) -> Table:
    record = outcome.record
    body = Table.grid(padding=(0, 0))
    if outcome.found:
        body.add_row(
            Text(
                "This run is in the store already; nothing was computed "
                "(force=true computes it again).",
                style="yellow",
            )
        )
        body.add_row("")
    body.add_row(metrics_table(record))
    body.add_row("")
    body.add_row(
        Text(
            "± 95 % over prompts: these checkpoints only, not other seeds. "
            "A tie counts half a win.",
            style="dim",
        )
    )
    body.add_row("")
    body.add_row(f"record     {record.path}")
    body.add_row(f"read it    ablate show {record.short}")
    # an order alone gives rpo_bwd nothing to match
    others = "dpo,simpo,ipo" if record.data["config"]["reward"]["name"] == "labels" else OTHERS
    body.add_row(f"next       the same words with objective={others} seed=0,1,2 -m")
    return body


def metrics_table(record: Record) -> Table:
    """Judge reward of SFT and policy, win rate, KL and length, by split."""
    metrics: dict[str, Any] = record.data["metrics"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    splits = [split for split in SPLIT_TITLES if split in metrics["reward"]]
    for split in splits:
        table.add_column(SPLIT_TITLES[split], justify="right")
    rows = [
        ("judge reward, SFT", "reward_sft", 3, 1.0),
        ("judge reward, trained", "reward", 3, 1.0),
        ("win rate against SFT, %", "win_rate", 1, 100.0),
        ("KL to SFT, nats", "kl", 2, 1.0),
        ("mean length, tokens", "length", 1, 1.0),
    ]
    for title, metric, digits, factor in rows:
        cells = []
        for split in splits:
            estimate = metrics[metric][split]
            half = (estimate["high"] - estimate["low"]) / 2
            # one prompt has no interval, not one of no width
            told = f" ± {fixed(factor * half, digits)}" if estimate["n"] > 1 else ""
            cells.append(fixed(factor * estimate["mean"], digits) + told)
        table.add_row(title, *cells)
    return table
