"""`ablate show ID`: one run in full: result, settings, stages, provenance, some answers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from ablate.cli.curve import curve_table
from ablate.cli.panel import metrics_table
from ablate.cli.store_words import split_words
from ablate.cli.stored import find_record
from ablate.cli.usage import STORE, Usage
from ablate.errors import ConfigError
from ablate.store import records
from ablate.store.layout import Layout
from ablate.store.records import Record

USAGE = Usage(
    "ablate show ID [--answers] [--all] [results_dir=DIR]",
    "Shows one run: its result, where it comes from, and the settings that are not defaults.",
    words=(
        ("ID", "the beginning of the run's id, as `ablate ls` lists it"),
        ("--answers", "some answers of the SFT policy and of the trained one, with their scores"),
        ("--all", "every setting, every stage, versions"),
        STORE,
    ),
    examples=("ablate show 3fa9", "ablate show 3fa9 --answers", "ablate show 3fa9 --all"),
)
ANSWERS_SHOWN = 5


def main(argv: Sequence[str]) -> int:
    """Prints a record; `--answers` adds some answers (which takes pandas)."""
    layout, words, flags = split_words(argv, USAGE)
    unknown = flags - {"--answers"}
    if len(words) != 1 or unknown:
        raise ConfigError(f"show takes the id of one run, as `ablate ls` lists it (usage: {USAGE})")
    record = find_record(layout, words[0])
    console = Console()
    console.print(f"[bold]{record.data['name']}[/]  {record.identity}", highlight=False)
    console.print(f"status {record.data['status']}, revision {record.revision}, {record.path}\n")
    console.print(metrics_table(record))
    console.print("[dim]± 95 % over prompts: these checkpoints only[/]\n")
    curve = curve_table(record.data["rounds"]) if "rounds" in record.data else None
    if curve is not None:
        console.print("[bold]along training, on prompts of valid[/]")
        console.print(curve)
        console.print()
    console.print(_facts(record, layout))
    console.print("\n[bold]stages[/]")
    console.print(_stages(record))
    console.print("\n[bold]settings[/]")
    console.print(_settings(record.data["config"]))
    if "--answers" in flags:
        _answers(console, layout, record)
    else:
        console.print("\n[dim]answers to read: add --answers[/]")
    return 0


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _facts(record: Record, layout: Layout) -> Table:
    data = record.data
    git = data["provenance"]["git"] or {}
    versions = data["provenance"]["versions"]
    commit = git.get("commit")
    dirty = f", {len(git['dirty_files'])} files changed since" if git.get("dirty_files") else ""
    reward = data["reward"]
    table = _grid()
    table.add_row("finished", f"{datetime.fromtimestamp(data['finished']):%Y-%m-%d %H:%M:%S}")
    table.add_row("training reward", _reward(reward))
    for name, learnt in reward.get("learnt", {}).items():
        table.add_row(name.replace("reward_model", "learnt").replace(".", " "), _learnt(learnt))
    for split, told in _data(data["stages"]):
        table.add_row(f"data, {split}", told)
    table.add_row("checkpoint", f"step {data['policy']['step']} of {data['policy']['checkpoints']}")
    table.add_row("weights", f"sha256 {data['policy']['weights'][:16]}…")
    table.add_row("tokens", _tokens(data))
    table.add_row("device seconds", f"{data['device_seconds']:.1f} (own stages)")
    table.add_row(
        "machine",
        f"{data['provenance']['host']}, {data['provenance']['cpu']}, "
        f"{data['machine']['device']}, {data['machine']['threads']} threads",
    )
    if data["provenance"].get("scheduler"):
        table.add_row("scheduler", _job(data["provenance"]["scheduler"]))
    diff = layout.diffs / f"{git.get('diff_sha256')}.diff"
    dirty += f" ({diff})" if diff.exists() else ""
    table.add_row("commit", f"{commit or 'not run from a checkout'}{dirty}")
    table.add_row("versions", ", ".join(f"{k} {v}" for k, v in versions.items() if v))
    table.add_row("tracker id", str(data["tracker_id"]))
    return table


def _job(ids: dict[str, Any]) -> str:
    task = "" if ids["array_task"] is None else f"_{ids['array_task']}"
    again = f", queued again {ids['restart']} times" if ids["restart"] else ""
    return f"SLURM job {ids['job']}{task}{again}"


def _tokens(data: dict[str, Any]) -> str:
    sampled = data["tokens_generated"]
    told = "an unknown number" if sampled is None else f"{sampled:,}"
    return (
        f"{data['tokens_trained']:,} trained, {told} sampled (stages shared with others included)"
    )


def _reward(reward: dict[str, Any]) -> str:
    parts = [reward["kind"], f"scale {reward['scale']:.4g}"]
    # records made before sources were measured within prompts have none
    found = reward.get("agreement") or dict.fromkeys(("accuracy", "accuracy_clean", "pearson"))
    if found["accuracy"] is not None:
        parts.append(f"orders {100 * found['accuracy']:.1f} % of label pairs rightly")
    if found["accuracy_clean"] not in (None, found["accuracy"]):
        parts.append(f"{100 * found['accuracy_clean']:.1f} % by the scores behind the labels")
    if found["pearson"] is not None:
        parts.append(f"correlation within prompts {found['pearson']:.3f}")
    if reward.get("judge_share", "none") != "none":
        what = "is" if reward["judge_share"] == "all" else "is in part"
        parts.append(f"{what} the judge itself")
    return ", ".join(parts)


def _data(stages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Prompts and responses of every pool, what did not fit, and how noisy labels are."""
    rows = []
    for stage in stages:
        result, split = stage["result"], stage["role"].rpartition("/")[2]
        if stage["name"] == "pool" and "data" in result:
            parts = [f"{result['prompts']:,} prompts, {result['responses']:,} responses"]
            parts += [f"{what}: {count:,}" for what, count in result["data"]["counts"].items()]
            commit = result["data"]["origin"].get("commit")
            rows.append((split, "; ".join(parts + ([f"commit {commit}"] if commit else []))))
        if stage["name"] == "policy" and result.get("unfit"):
            told = "; ".join(f"{what}: {count:,}" for what, count in result["unfit"].items())
            rows.append(("drawn in training", told))
        if stage["name"] == "labels" and result.get("agrees_with_clean") is not None:
            agrees = 100 * result["agrees_with_clean"]
            rows.append((split, f"labels order {agrees:.1f} % of untied pairs as clean scores do"))
    return rows


def _learnt(learnt: dict[str, Any]) -> str:
    """What a learnt source says of itself on held-out prompts of both kinds."""
    labels = learnt["labels"]
    parts = [f"{labels['comparisons']:,} comparisons ({labels['prompts']})"]
    for kind, found in learnt["held_out"].items():
        if found["accuracy"] is not None:
            parts.append(
                f"{kind}: {100 * found['accuracy']:.1f} % right, "
                f"calibration error {found['calibration_error']:.3f}"
            )
    return "; ".join(parts)


def _stages(record: Record) -> Table:
    table = _grid()
    for stage in record.data["stages"]:
        seconds = stage["computed_seconds"]
        took = "found in store" if seconds is None else f"{seconds:.1f} s"
        judged = _judging(stage["result"])
        table.add_row(f"  {stage['role']}", f"{stage['id'][:12]}  {took}{judged}")
    return table


def _judging(result: dict[str, Any]) -> str:
    """What a stage's judge did, where it is no rule that costs nothing."""
    if "judging" not in result:
        return ""
    done = result["judging"]
    if not done["asked"] + done["from_cache"]:
        return ""
    cut = f", {done['truncated']} with a prompt cut to fit" if done["truncated"] else ""
    return (
        f"; {done['judged']} answers judged in {done['seconds']:.1f} s: {done['asked']} verdicts "
        f"asked for, {done['from_cache']} known{cut}"
    )


def _settings(config: dict[str, Any], prefix: str = "  ") -> Table:
    table = _grid()
    for path, value in records.flat(config):
        table.add_row(f"{prefix}{path}", str(value))
    return table


def _answers(console: Console, layout: Layout, record: Record) -> None:
    from ablate.results import load_eval

    table = load_eval(layout.root, [record.identity], split="test")
    if table.empty:
        console.print("\n[dim]this copy of the results leaves its answers out[/]")
    for row in table.head(ANSWERS_SHOWN).itertuples():
        console.print(f"\n[bold]{row.prompt}[/]", highlight=False)
        console.print(
            f"  SFT     {row.baseline_score:6.2f}  {row.baseline_response}", highlight=False
        )
        console.print(f"  policy  {row.judge_score:6.2f}  {row.response}", highlight=False)
