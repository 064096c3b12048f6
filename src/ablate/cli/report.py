"""`ablate report`: one HTML file of a study, to read, to send and to print."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ablate.cli.store_flags import take_results_dir, tell_damaged
from ablate.cli.table_command import check_study, make_table, parser
from ablate.cli.words import several
from ablate.errors import ConfigError
from ablate.results import Study, load_study

EXAMPLES = (
    "ablate report --sweep quick",
    "ablate report --sweep quick --out study.html --figures figures",
    "ablate report --rows objective --cols num_responses --baseline dpo",
)
NOTES = (
    "What is left open the sweep's file may have fixed (rows, cols, baseline, margin). The report "
    "is whole: it needs no network."
)


def main(argv: Sequence[str]) -> int:
    """Writes the report; 3 where damaged records had to be left out."""
    layout, words = take_results_dir(argv)
    flags = parser(
        "report", "Writes one self-contained HTML file: tables, figures, answers, provenance.",
        EXAMPLES, NOTES,
    )  # fmt: skip
    flags.add_argument("--out", type=Path, metavar="FILE", help="default: NAME.html")
    flags.add_argument(
        "--figures", type=Path, metavar="DIR", help="also each figure as SVG, PDF, PNG and CSV"
    )
    args = flags.parse_args(words)
    study = load_study(layout.root, args.sweep)
    code = tell_damaged(study.damaged)
    check_study(study)
    from ablate.analysis.report import report

    name = args.sweep or layout.root.resolve().name
    made = report(
        study.reported,
        study.lacking,
        make_table(study, args),
        name=name,
        commands=_commands(study, argv),
        damaged=[str(item) for item in study.damaged],
    )
    target = args.out or Path(f"{name}.html")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(made.html, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {target} cannot be written: {error.strerror}") from error
    print(f"wrote {target} ({target.stat().st_size / 2**20:.1f} MB)")
    if args.figures is not None:
        try:
            written = [path for stem, figure in made.figures.items()
                       for path in figure.save(args.figures / stem)]  # fmt: skip
        except OSError as error:
            raise ConfigError(f"--figures {args.figures} cannot be written: {error}") from error
        print(f"wrote {several(len(written), 'file')} in {args.figures}", file=sys.stderr)
    return code


def _commands(study: Study, argv: Sequence[str]) -> list[str]:
    """What was typed to run the study, as it was frozen, and to make this report."""
    words, skip = ["ablate", "report"], False
    for word in argv:
        # where files lie on this machine is nobody's business
        if not skip and not word.startswith(("--out", "--figures", "results_dir=")):
            words.append(shlex.quote(word))
        skip = word in ("--out", "--figures")
    return [*(f"ablate {line}" for line in study.commands), " ".join(words)]
