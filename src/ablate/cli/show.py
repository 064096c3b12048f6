"""`ablate show ID`: one run: its result, what is not default about it, provenance, answers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ablate.cli.curve import curve_table
from ablate.cli.panel import metrics_table
from ablate.cli.settings import changed, levels_of
from ablate.cli.store_words import split_words
from ablate.cli.stored import find_record
from ablate.cli.usage import STORE, Usage
from ablate.cli.words import several
from ablate.errors import ConfigError
from ablate.printed import fixed
from ablate.store import records
from ablate.store.layout import Layout
from ablate.store.records import Record

USAGE = Usage(
    "ablate show ID [--answers] [--all] [results_dir=DIR]",
    "Shows one run: its result, where it comes from, and the settings that are not defaults.",
    words=(
        ("ID", "the beginning of the run's id, as `ablate ls` lists it"),
        ("--answers", "some answers of the SFT policy and of the trained one, with their scores"),
        ("--all", "every setting and stage, versions, sha256 of the weights"),
        STORE,
    ),
    examples=("ablate show 3fa9", "ablate show 3fa9 --answers", "ablate show 3fa9 --all"),
)
ANSWERS_SHOWN = 5


def main(argv: Sequence[str]) -> int:
    """Prints a record; `--all` the whole of it, `--answers` some answers (which takes pandas)."""
    layout, words, flags = split_words(argv, USAGE)
    unknown = flags - {"--answers", "--all"}
    if len(words) != 1 or unknown:
        raise ConfigError(f"show takes the id of one run, as `ablate ls` lists it (usage: {USAGE})")
    record = find_record(layout, words[0])
    console = Console()
    whole = "--all" in flags
    console.print(f"[bold]{record.data['name']}[/]  {record.identity}", highlight=False)
    console.print(f"status {record.data['status']}, revision {record.revision}")
    # to be copied
    place = record.path if record.path.is_dir() else f"in {layout.compact}"
    console.print(f"{place}\n", soft_wrap=True, highlight=False)
    console.print(metrics_table(record))
    console.print("[dim]± 95 % over prompts: these checkpoints only[/]\n")
    curve = curve_table(record.data["rounds"]) if "rounds" in record.data else None
    if curve is not None:
        console.print("[bold]along training, on prompts of valid[/]")
        console.print(curve)
        console.print()
    console.print(_facts(record, layout, whole))
    if whole:
        console.print("\n[bold]stages[/]")
        console.print(_stages(record))
        console.print("\n[bold]settings[/]")
        console.print(_settings(record.data["config"]))
    else:
        _show_changed(console, record)
    if "--answers" in flags:
        _answers(console, layout, record)
    more = [
        f"{flag}: {told}"
        for flag, told in (("--answers", "answers to read"), ("--all", "every setting and stage"))
        if flag not in flags
    ]
    if more:
        console.print(f"\n[dim]{'; '.join(more)}[/]", highlight=False)
    return 0


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _facts(record: Record, layout: Layout, whole: bool) -> Table:
    data = record.data
    git = data["provenance"]["git"] or {}
    versions = data["provenance"]["versions"]
    commit = git.get("commit")
    dirty = (
        f", {several(len(git['dirty_files']), 'file')} changed since"
        if git.get("dirty_files")
        else ""
    )
    reward = data["reward"]
    table = _grid()
    table.add_row("finished", f"{datetime.fromtimestamp(data['finished']):%Y-%m-%d %H:%M:%S}")
    table.add_row("training reward", _reward(reward))
    for name, learnt in reward.get("learnt", {}).items():
        table.add_row(name.replace("reward_model", "learnt").replace(".", " "), _learnt(learnt))
    for split, told in _data(data["stages"]):
        table.add_row(f"data, {split}", told)
    table.add_row("checkpoint", f"step {data['policy']['step']} of {data['policy']['checkpoints']}")
    if whole:
        table.add_row("weights", f"sha256 {data['policy']['weights'][:16]}…")
    table.add_row("tokens", _tokens(data))
    table.add_row("device seconds", f"{data['device_seconds']:.1f} (own stages)")
    machine = (
        data["provenance"]["host"],
        data["provenance"]["cpu"],
        data["machine"]["device"],
        several(data["machine"]["threads"], "thread"),
    )
    table.add_row(
        "machine",
        ", ".join(str(part) for part in machine if part),
    )
    if data["provenance"].get("scheduler"):
        table.add_row("scheduler", _job(data["provenance"]["scheduler"]))
    diff = layout.diffs / f"{git.get('diff_sha256')}.diff"
    dirty += f" ({diff})" if diff.exists() else ""
    table.add_row("commit", f"{commit or 'not run from a checkout'}{dirty}")
    for role, told in _judged(data["stages"]):
        table.add_row(f"judge, {role}", told)
    if whole:
        table.add_row("versions", ", ".join(f"{k} {v}" for k, v in versions.items() if v))
        table.add_row("tracker id", str(data["tracker_id"]))
    return table


def _job(ids: dict[str, Any]) -> str:
    task = "" if ids["array_task"] is None else f"_{ids['array_task']}"
    again = f", queued again {several(ids['restart'], 'time')}" if ids["restart"] else ""
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
        parts.append(f"correlation within prompts {fixed(found['pearson'], 3)}")
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
            counts = (several(result[f"{what}s"], what) for what in ("prompt", "response"))
            parts = [", ".join(counts)]
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
    parts = [f"{several(labels['comparisons'], 'comparison')} ({labels['prompts']})"]
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
        table.add_row(f"  {stage['role']}", f"{stage['id'][:12]}  {took}")
    return table


def _judged(stages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Per stage what its judge did, where that is no rule that costs nothing."""
    found = [(stage["role"], _judging(stage["result"])) for stage in stages]
    return [(role, told) for role, told in found if told]


def _judging(result: dict[str, Any]) -> str:
    if "judging" not in result:
        return ""
    done = result["judging"]
    if not done["asked"] + done["from_cache"]:
        return ""
    cut = f", {done['truncated']} with a prompt cut to fit" if done["truncated"] else ""
    return (
        f"{several(done['judged'], 'answer')} judged in {done['seconds']:.1f} s: "
        f"{several(done['asked'], 'verdict')} asked for, {done['from_cache']} known{cut}"
    )


def _show_changed(console: Console, record: Record) -> None:
    """The levels of the factors, and the settings that are not those of the levels."""
    config = record.data["config"]
    console.print("\n[bold]levels[/]")
    told = "  ".join(f"{factor}={level}" for factor, level in levels_of(config).items())
    console.print(Padding(Text(f"{told}  seed={config['seed']['value']}"), (0, 0, 0, 2)))
    found = changed(config)
    if found is None:
        console.print("\n[bold]settings[/]  [dim]the level files here do not fit this run[/]")
        console.print(_settings(config))
        return
    found.pop("seed.value", None)
    if not found:
        console.print("\n[bold]settings[/]\n  those of the levels")
        return
    console.print("\n[bold]settings that are not those of the levels[/]  [dim]default[/]")
    table = _grid()
    table.add_column(style="dim", overflow="fold")
    for path, (value, usual) in found.items():
        table.add_row(f"  {path}", Text(_plain(value)), Text(_plain(usual)))
    console.print(table)


def _settings(config: dict[str, Any], prefix: str = "  ") -> Table:
    table = _grid()
    for path, value in records.flat(config):
        table.add_row(f"{prefix}{path}", Text(_plain(value)))
    return table


def _plain(value: Any) -> str:
    """As it is typed."""
    return "null" if value is None else str(value)


def _answers(console: Console, layout: Layout, record: Record) -> None:
    from ablate.results import load_eval

    table = load_eval(layout.root, [record.identity], split="test")
    if table.empty:
        console.print("\n[dim]this copy of the results leaves its answers out[/]")
    for row in table.head(ANSWERS_SHOWN).itertuples():
        # what a model wrote is no markup
        console.print(Text(f"\n{row.prompt}", style="bold"))
        console.print(Text(f"  SFT     {fixed(row.baseline_score, 2):>6}  {row.baseline_response}"))
        console.print(Text(f"  policy  {fixed(row.judge_score, 2):>6}  {row.response}"))
