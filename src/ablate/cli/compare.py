"""`ablate compare A B`: two runs or cells paired by prompt, and the prompts that part them."""

import math
import re
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.analysis import arms
from ablate.analysis.prompts import THESE_CHECKPOINTS, compare_prompts, over_seeds, paired_by_prompt
from ablate.cli.store_flags import Flags, take_results_dir, tell_damaged
from ablate.cli.whole import print_whole
from ablate.cli.words import several
from ablate.errors import ConfigError, DataError
from ablate.printed import fixed
from ablate.results import load_study, read_answers
from ablate.results.sweeps import PHASE, TUNE

EXAMPLES = (
    "ablate compare 3fa9 71bc",
    "ablate compare objective=dpo,num_responses=2 objective=simpo,num_responses=2",
)
CELL = "beginning of a run's id, as `ablate ls` lists it, or setting=value,… of a cell"
COLUMN = "judge_score"


def main(argv: Sequence[str]) -> int:
    """Prints the comparison; 3 where damaged records had to be left out."""
    layout, words = take_results_dir(argv)
    flags = Flags(
        "compare", "Pairs two runs or cells by prompt, and shows where they differ most.", EXAMPLES
    )
    flags.add_argument("first", metavar="A", help=CELL)
    flags.add_argument("second", metavar="B", help="likewise")
    flags.add_argument("--sweep", metavar="NAME", help="only runs of this sweep")
    flags.add_argument("--split", default="test", help="held-out prompts (default test)")
    flags.add_argument(
        "--top", type=int, default=5, metavar="N", help="prompts to show side by side"
    )
    flags.add_argument("--format", choices=["terminal", "csv"], default="terminal")
    args = flags.parse_args(words)
    if args.top < 0:
        raise ConfigError(f"--top {args.top} must be 0 or more")
    study = load_study(layout.root, args.sweep)
    code = tell_damaged(study.damaged)
    if study.frame.empty:
        raise DataError("there is no finished run to compare")
    frame = arms.one_per_seed(study.reported).frame
    first, second = (pick(frame, study.frame, word) for word in (args.first, args.second))
    pairs = pair_runs(first, second, args.first, args.second)
    arms.check_comparable(pd.concat([first, second]), "these runs")
    both = read_pairs(pairs, args.split)
    if args.format == "csv":
        sys.stdout.write(both.to_csv(index=False))
        return code
    console = Console()
    for letter, runs in (("A", first), ("B", second)):
        console.print(f"[bold]{letter}[/]  {_described(runs)}", highlight=False)
    _numbers(console, both, len(pairs), args.split)
    _qualify(console, first, second, study.frame)
    _side_by_side(console, both, args.top)
    return code


def pick(frame: pd.DataFrame, everything: pd.DataFrame, word: str) -> pd.DataFrame:
    """The runs that a word means: one by the beginning of its id, or all of a cell.

    Raises:
        ConfigError: a word of neither form, no such run, several runs for an id, or a cell that
            mixes settings.
    """
    if "=" in word:
        found = arms.keep(frame, _conditions(word))
        mixed = arms.trial_settings(found)
        if mixed:
            told = "; ".join(
                f"{arms.short(c)} ({', '.join(dict.fromkeys(found[c].map(arms.plain)))})"
                for c in mixed
            )
            raise ConfigError(f"'{word}' is no single cell, its runs differ in {told}")
        return found
    if not re.fullmatch(r"[0-9a-f]+", word):
        raise ConfigError(f"'{word}' is neither the beginning of an id nor setting=value")
    found = everything[everything["id"].str.startswith(word)]
    if len(found) != 1:
        listed = ", ".join(identity[:12] for identity in found["id"][:8])
        told = "fits no run (see `ablate ls`)"
        if len(found):
            told = f"fits {several(len(found), 'run')}: {listed}"
        raise ConfigError(f"'{word}' {told}")
    return found


def _conditions(word: str) -> list[str]:
    """`a=1,b=2` as conditions; a comma inside a value's alternatives is not needed here."""
    return [part for part in word.split(",") if part]


def pair_runs(
    first: pd.DataFrame, second: pd.DataFrame, name: str, other: str
) -> list[tuple[str, str, int]]:
    """Folders of runs with the same seed, with that seed; two single runs pair in any case.

    Raises:
        DataError: cells without a seed in common.
    """
    if len(first) == 1 and len(second) == 1:
        return [(first["path"].iloc[0], second["path"].iloc[0], int(first["seed"].iloc[0]))]
    theirs = dict(zip(second["seed"], second["path"], strict=True))
    pairs = [
        (path, theirs[seed], int(seed))
        for seed, path in zip(first["seed"], first["path"], strict=True)
        if seed in theirs
    ]
    if not pairs:
        raise DataError(f"'{name}' and '{other}' have no seed in common, so no runs to pair")
    return pairs


def read_pairs(pairs: list[tuple[str, str, int]], split: str) -> pd.DataFrame:
    """Answers side by side: the columns of `paired_by_prompt` and `seed`.

    Raises:
        DataError: no such split, or no prompt in common.
    """
    columns = ["split", "prompt_id", "sample", "prompt", "response", COLUMN]
    parts = []
    for mine, other, seed in pairs:
        tables = [read_answers(path, columns) for path in (mine, other)]
        splits = list(dict.fromkeys(tables[0]["split"]))
        if not splits:
            raise DataError("this copy of the results leaves the answers of these runs out")
        if split not in splits:
            raise DataError(f"there is no split '{split}'; there are: {', '.join(splits)}")
        one, two = (table[table["split"] == split] for table in tables)
        parts.append(paired_by_prompt(one, two, COLUMN).assign(seed=seed))
    both = pd.concat(parts, ignore_index=True)
    if both.empty:
        raise DataError(f"the runs have no {split} prompt in common")
    return both


def _described(runs: pd.DataFrame) -> str:
    ids = " ".join(identity[:12] for identity in runs["id"])
    return f"{str(runs['name'].iloc[0]).rpartition(' seed=')[0]}  [dim]seeds " + (
        f"{', '.join(str(seed) for seed in runs['seed'])}  {ids}[/]"
    )


def _numbers(console: Console, both: pd.DataFrame, pairs: int, split: str) -> None:
    per_seed = both.groupby("seed")["difference"].mean().to_numpy()
    found = compare_prompts(both)
    mean, half, p = over_seeds(per_seed)
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("", "A - B", "95 % interval", "what it speaks of"):
        grid.add_column(heading, no_wrap=heading in ("A - B", "95 % interval"))
    name = f"judge reward, {split}"
    prompts = both["prompt_id"].nunique()
    if not math.isnan(half):
        told = f"the two arms: {several(pairs, 'seed')}, paired t test, p = {p:.3f}"
        grid.add_row(name, *_signed(mean, mean - half, mean + half), told)
        name = ""
    gap = found.difference
    told = f"{THESE_CHECKPOINTS}: {several(prompts, 'prompt')}"
    grid.add_row(name, *_signed(gap.mean, gap.low, gap.high), told)
    wins = found.wins
    grid.add_row(
        "A wins, % (a tie is half)", f"{100 * wins.mean:.1f}",
        f"{100 * wins.low:.1f} … {100 * wins.high:.1f}",
        f"{THESE_CHECKPOINTS}; {100 * found.ties:.1f} % ties",
    )  # fmt: skip
    print_whole(console, grid)
    if math.isnan(half):
        why = "one pair of runs" if pairs == 1 else "seeds that hold identical numbers"
        console.print(
            f"[dim]{why}: whether the arms differ cannot be said, other seeds may say otherwise[/]"
        )


def _qualify(
    console: Console, first: pd.DataFrame, second: pd.DataFrame, everything: pd.DataFrame
) -> None:
    """What one comparison by itself does not know."""
    if len(first) > 1 or len(second) > 1:
        told = "a pair by itself: if it is one of several, `ablate table` corrects for them"
        if PHASE in everything and TUNE in set(everything[PHASE]):
            told += "; its arms were tuned, and the luck of the draw of trials is in no interval"
        console.print(f"[dim]note: {told}[/]", highlight=False)


def _signed(mean: float, low: float, high: float) -> tuple[str, str]:
    mean_told, low_told, high_told = (fixed(value, 3, sign=True) for value in (mean, low, high))
    return mean_told, f"{low_told} … {high_told}"


def _side_by_side(console: Console, both: pd.DataFrame, top: int) -> None:
    """The prompts with the largest mean differences, each with one pair of answers."""
    size = both.groupby("prompt_id", sort=False)["difference"].mean().abs()
    chosen = size.sort_values(ascending=False, kind="stable").head(top)
    if top:
        console.print(f"\n[bold]{several(len(chosen), 'prompt')} on which they differ most[/]")
    for prompt_id in chosen.index:
        rows = both[both["prompt_id"] == prompt_id]
        row = rows.iloc[int(np.argmax(rows["difference"].abs().to_numpy()))]
        mean = rows["difference"].mean()
        over = (
            f", {fixed(mean, 2, sign=True)} on average over {len(rows)} answers"
            if len(rows) > 1
            else ""
        )
        console.print(Text(f"\n{row['prompt']}", style="bold"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row("A", fixed(row["first"], 2), Text(str(row["first_response"])))
        grid.add_row("B", fixed(row["second"], 2), Text(str(row["second_response"])))
        console.print(grid)
        seed = f"seed {row['seed']}{over}" if over else ""
        if seed:
            console.print(f"[dim]{seed}[/]", highlight=False)
