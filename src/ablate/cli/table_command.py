"""`ablate table`: a table of finished runs, tested, with everything that qualifies it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ablate.analysis import AblationTable, Question, arms, build
from ablate.analysis.caption import study_notes
from ablate.analysis.formats import FORMATS
from ablate.analysis.margins import read_margin
from ablate.cli.store_flags import Flags, take_results_dir, tell_damaged
from ablate.cli.table_view import show
from ablate.errors import ConfigError, DataError
from ablate.results import Study, load_study
from ablate.results.sweeps import fixed_margin

EXAMPLES = (
    "ablate table --rows objective --cols num_responses --baseline dpo",
    "ablate table --sweep quick --rows objective --metric reward/test kl/test --format latex",
    "ablate table --rows objective --where num_responses=2 --baseline dpo --margin 0.05",
    "ablate table --rows objective --choose reward/valid --baseline dpo",
)


def parser(name: str, sentence: str, examples: Sequence[str] = (), notes: str = "") -> Flags:
    """The flags that say which table of which runs is meant."""
    flags = Flags(name, sentence, examples, notes)
    add = flags.add_argument
    add("--sweep", metavar="NAME", help="the runs of one sweep, by name or beginning of its id")
    add("--rows", nargs="+", default=[], metavar="FACTOR", help="factors or settings of the rows")
    add("--cols", nargs="+", default=[], metavar="FACTOR", help="factors or settings of columns")
    add("--metric", nargs="+", metavar="NAME", help="metric/split, such as reward/test (default)")
    add("--baseline", metavar="LEVEL", help="a row (of each column), or setting=value,… of a cell")
    add(
        "--margin",
        metavar="X",
        help="differences within ±X of the first metric count as none; 10%% is that share of the "
        "best offline gain over SFT in these runs, which is the default where no file fixed one",
    )
    add("--where", action="append", default=[], metavar="SETTING=VALUE", help="runs to keep")
    add("--choose", metavar="METRIC", help="choose among a cell's trials by this metric on valid")
    add(
        "--matched-kl",
        metavar="X",
        help="judge reward at KL X nats, or at the largest all reach: max",
    )
    add("--reuse-seeds", action="store_true", help="report the seeds that chose, with a note")
    return flags


def main(argv: Sequence[str]) -> int:
    """Prints or writes a table; 3 where damaged records had to be left out."""
    layout, words = take_results_dir(argv)
    flags = parser(
        "table", "Tables finished runs: means over seeds, differences to a baseline, tested.",
        EXAMPLES,
    )  # fmt: skip
    flags.add_argument("--format", choices=["terminal", *FORMATS], default="terminal")
    flags.add_argument(
        "--out", type=Path, metavar="FILE", help="write there in place of the screen"
    )
    args = flags.parse_args(words)
    study = load_study(layout.root, args.sweep)
    code = tell_damaged(study.damaged)
    table = make_table(study, args)
    if args.format == "terminal":
        if args.out is not None:
            raise ConfigError("--out needs --format md, latex, csv or html")
        show(Console(), table)
        return code
    text = FORMATS[args.format](table)
    if args.out is None:
        sys.stdout.write(text)
    else:
        try:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--out {args.out} cannot be written: {error.strerror}") from error
        print(f"wrote {args.out}", file=sys.stderr)
    return code


def check_study(study: Study) -> None:
    """Refuses a study without a finished run.

    Raises:
        DataError: says what became of the runs.
    """
    if study.frame.empty:
        where = f"the sweep '{study.name}'" if study.name else "the store"
        counts = study.lacking["state"].value_counts().to_dict() if len(study.lacking) else {}
        told = ", ".join(f"{count} {state}" for state, count in counts.items())
        raise DataError(
            f"{where} has no finished run" + (f" ({told}; see `ablate ls`)" if told else "")
        )


def make_table(study: Study, args: argparse.Namespace) -> AblationTable:
    """The table that the flags ask for; what they leave open the sweep file may have fixed.

    Raises:
        AblateError: no finished run, or a question that these runs cannot answer.
    """
    check_study(study)
    frame = arms.keep(study.frame, args.where)
    lacking = arms.keep_known(study.lacking, args.where)
    fixed = study.settings
    metrics = _names(args.metric or fixed.get("metrics") or ["reward/test"])
    # a margin has the unit of the metric that it was fixed for
    asked = args.margin if args.margin is not None else fixed_margin(fixed, metrics[0])
    margin, share = read_margin(asked)
    question = Question(
        rows=_names(args.rows) or _names(fixed.get("rows") or []),
        cols=_names(args.cols) or _names(fixed.get("cols") or []),
        metrics=metrics,
        baseline=args.baseline or fixed.get("baseline"),
        margin=margin,
        margin_share=share,
        choose_by=args.choose or fixed.get("choose"),
        matched_kl=_matched_kl(args.matched_kl),
        reuse_seeds=args.reuse_seeds,
    )
    try:
        table = build(frame, lacking, question)
    except ConfigError as error:
        if args.baseline is None and question.baseline is not None:
            told = str(error).replace("--baseline", "the baseline that the sweep's file fixed,", 1)
            if told != str(error):
                raise ConfigError(f"{told}. Name one with --baseline") from error
        raise
    if args.margin is not None and table.question.margin is None:
        raise ConfigError(
            f"--margin {args.margin}: a share needs judge reward as the first metric, on one "
            "scale, and an offline cell of the table that gained over SFT; give a number"
        )
    table.notes += study_notes(table, study.notes)
    return table


def show_study(console: Console, study: Study) -> None:
    """Prints the table that a sweep's own file asks for."""
    show(console, make_table(study, parser("table", "").parse_args([])))


def _names(words: Sequence[str]) -> tuple[str, ...]:
    """Names given apart or with commas."""
    return tuple(name for word in words for name in str(word).split(",") if name)


def _matched_kl(given: str | None) -> float | str | None:
    """A KL in nats, or `max`.

    Raises:
        ConfigError: neither.
    """
    if given is None or given == "max":
        return given
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"--matched-kl {given}: a positive number of nats, or max")
    return value
