"""`ablate effects`: which factor matters, over a whole grid: main effects and interactions."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.analysis import arms, effects
from ablate.analysis.caption import number, title
from ablate.analysis.confounded import confounded
from ablate.analysis.effects import Effects
from ablate.analysis.lack_of_fit import assumed
from ablate.analysis.measure import answer_values, measure, resolve
from ablate.cli.store_flags import Flags, take_results_dir, tell_damaged
from ablate.cli.whole import print_whole
from ablate.errors import ConfigError, DataError
from ablate.results import load_study
from ablate.results.sweeps import PHASE, TUNE

EXAMPLES = (
    "ablate effects --sweep quick --factors objective num_responses --figure figures/choices",
    "ablate effects --factors objective collection --where reward=gold",
)
NOTES = (
    "With judge reward on test, prompts are random too: intervals speak of other prompts of the "
    "kind."
)


def main(argv: Sequence[str]) -> int:
    """Prints the effects; 3 where damaged records had to be left out."""
    layout, words = take_results_dir(argv)
    flags = Flags(
        "effects", "Tells which factor of a grid matters: main effects and pairwise interactions.",
        EXAMPLES, NOTES,
    )  # fmt: skip
    add = flags.add_argument
    add("--factors", nargs="+", required=True, metavar="FACTOR", help="factors or settings")
    add("--sweep", metavar="NAME", help="the runs of one sweep, by name or beginning of its id")
    add("--metric", default="reward/test", metavar="NAME", help="default: reward/test")
    add("--where", action="append", default=[], metavar="SETTING=VALUE", help="runs to keep")
    add("--format", choices=["terminal", "csv"], default="terminal")
    flags.add_argument("--figure", type=Path, metavar="STEM", help="writes STEM.svg, .pdf, .png")
    args = flags.parse_args(words)
    study = load_study(layout.root, args.sweep)
    code = tell_damaged(study.damaged)
    if study.frame.empty:
        raise DataError("there is no finished run whose effects could be told")
    frame = arms.one_per_seed(arms.keep(study.reported, args.where)).frame
    factors = [arms.column_of(frame, word) for word in args.factors]
    arms.check_comparable(frame, "these runs")
    _check_cells(frame, factors)
    repeated = _repeated(frame)
    frame = frame.drop_duplicates("id")
    metric = resolve(frame, args.metric)
    frame = measure(frame, metric)
    runs = _runs(frame, factors).assign(value=frame[metric].astype(float))
    answers = None
    if metric == "reward/test":
        answers = answer_values(frame).merge(runs.drop(columns="value"), on="id")
    found = effects(runs, factors, answers)
    if args.format == "csv":
        sys.stdout.write(found.terms.to_csv(index=False))
    else:
        _show(Console(), found, metric, answers is not None)
        tuned = _tuned(arms.keep(study.frame, args.where), factors)
        other = confounded(frame, factors, known=tuned)
        _qualify(Console(), tuned, other, repeated, len(study.lacking))
    if args.figure is not None:
        from ablate.analysis.figures import which_choice_matters

        try:
            written = which_choice_matters(found, metric).save(args.figure)
        except OSError as error:
            raise ConfigError(f"--figure {args.figure} cannot be written: {error}") from error
        print("wrote " + ", ".join(str(path) for path in written), file=sys.stderr)
    return code


def _runs(frame: pd.DataFrame, factors: list[str]) -> pd.DataFrame:
    """id, factors as text and block: the seed, or the SFT policy that a seed's runs share."""
    told = {factor: frame[factor].map(arms.plain) for factor in factors}
    block = frame["stage.answers"].astype(str) if "stage.answers" in frame else ""
    return pd.DataFrame({"id": frame["id"], **told, "block": frame["seed"].astype(str) + block})


def _check_cells(frame: pd.DataFrame, factors: list[str]) -> None:
    for levels, part in frame.groupby([arms.texts(frame[name]) for name in factors], sort=False):
        mixed = arms.trial_settings(part)
        if mixed:
            names = ", ".join(arms.short(name) for name in mixed)
            raise ConfigError(
                f"the runs of {' '.join(str(level) for level in levels)} differ in {names}: add "
                "these to --factors, or choose with --where setting=value"
            )


def _grid(*headings: str) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        # names wrap, numbers do not
        table.add_column(heading, justify="left" if place == 0 else "right", no_wrap=place > 0)
    return table


def _show(console: Console, found: Effects, metric: str, prompts: bool) -> None:
    console.print(f"[bold]which choice matters[/]: {title(metric)}", highlight=False)
    table = _grid("factor", "size (sd\nbetween effects)", "95 %", "F", "p, Holm", "")
    for row in found.terms.sort_values(["order", "size"], ascending=[True, False]).itertuples():
        p = "< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
        table.add_row(
            _short(row.term), number(row.size, metric),
            f"{number(row.size_low, metric)} … {number(row.size_high, metric)}",
            f"{row.F:.1f}", p, "*" if row.p_holm <= 0.05 else "",
        )  # fmt: skip
    print_whole(console, table)
    console.print()
    table = _grid("level", "against its\nfactor's mean", "simultaneous\n95 %")
    for row in found.levels.itertuples():
        table.add_row(
            f"{_short(row.factor)} {row.level}", number(row.effect, metric, sign=True),
            f"{number(row.low, metric, sign=True)} … {number(row.high, metric, sign=True)}",
        )  # fmt: skip
    print_whole(console, table)
    told = "prompts and seeds random" if prompts else "seeds random, these prompts only"
    spread = f"sd between seeds {number(found.sd_seed, metric)}"
    if prompts:
        spread += f", of an arm's mean between sets of prompts {number(found.sd_prompt, metric)}"
    console.print(f"[dim]linear mixed model, {told}; {spread}[/]", highlight=False)
    told = assumed([_short(name) for name in found.left_out], found.fit)
    if told:
        console.print(f"[dim]note: {told}[/]", highlight=False)


def _tuned(frame: pd.DataFrame, factors: list[str]) -> list[str]:
    """Settings in which the trials of a cell differ, of a sweep that tunes."""
    if PHASE not in frame:
        return []
    tried = frame[frame[PHASE] == TUNE]
    cells = tried.groupby([arms.texts(tried[name]) for name in factors], sort=False)
    return list(dict.fromkeys(name for _, part in cells for name in arms.trial_settings(part)))


def _repeated(frame: pd.DataFrame) -> list[str]:
    """Runs that stand under several levels, and those that are checkpoints of one policy."""
    notes = []
    again = int(frame["id"].duplicated().sum())
    if again:
        notes.append(f"{again} runs stand under several levels; they are counted under the first")
    once = frame.drop_duplicates("id")
    if "stage.policy" in once:
        shared = int(once["stage.policy"].dropna().duplicated(keep=False).sum())
        if shared:
            notes.append(
                f"{shared} runs report policies that others report too (other checkpoints, or the "
                "same); the model takes them for independent runs, which makes effects look surer"
            )
    return notes


def _qualify(
    console: Console, tuned: list[str], other: list[str], repeated: list[str], lacking: int
) -> None:
    """What an effect can be due to beside its factor, and what is missing."""
    for note in repeated:
        console.print(f"[dim]note: {note}[/]", highlight=False)
    if tuned:
        told = ", ".join(arms.short(name) for name in tuned)
        console.print(f"[dim]note: tuned in each cell: {told}[/]", highlight=False)
    if other:
        told = "levels differ in settings that are no factor, and an effect can be due to these:"
        console.print(f"[dim]note: {told}[/]", highlight=False)
        for line in other:
            console.print(Text(f"    {line}", style="dim"))
    if lacking:
        console.print(f"[dim]note: not there of what was asked for: {lacking} (ablate ls)[/]")


def _short(term: str) -> str:
    return " × ".join(arms.short(part) for part in term.split(" × "))
